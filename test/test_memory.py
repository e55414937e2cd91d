"""Memory: needs of a load and of an inference, what is left, and the course of a load."""

from functools import partial
import json
import shutil
import sys
from types import ModuleType, SimpleNamespace

from golden_scene import MODEL
import pytest
from safetensors.torch import load_file
import torch
from torch.profiler import ProfilerActivity, profile

from alpamayo_ros.benchmark.full_size import RELEASE
from alpamayo_ros.cli.entry import command
from alpamayo_ros.cli.quantize import main as quantize
from alpamayo_ros.data_types import SamplingOptions
from alpamayo_ros.errors import BadInput
from alpamayo_ros.model.config import parse_config
from alpamayo_ros.quantization import matrix
from alpamayo_ros.quantization.linear import replace_linears
from alpamayo_ros.quantization.scheme import RECIPES, SCHEMES, make_rules
from alpamayo_ros.runtime import budget, memory
from alpamayo_ros.runtime import load as load_module
from alpamayo_ros.runtime.load import (
    EMBEDDING,
    LARGEST_BYTES,
    build_on_meta,
    count_tensor_bytes,
    load_model,
    plan_load,
    split_large_head,
)
from alpamayo_ros.runtime.pictures import count_threads

KINDS = [(recipe, bits) for recipe in RECIPES for bits in SCHEMES]
GB = 1_000_000_000


def release(recipe, bits):
    """The model of the release on the meta device, as it is packed; whether its embedding is."""
    model, rules = build_on_meta(parse_config(RELEASE)), make_rules(recipe, bits)
    replace_linears(model, rules)
    return model, split_large_head(model, rules, torch.bfloat16)


@pytest.mark.parametrize(('recipe', 'bits'), KINDS)
def test_no_tensor_of_the_release_on_a_gpu_is_above_500_mb(recipe, bits):
    model, on_host = release(recipe, bits)
    sizes = count_tensor_bytes(model, torch.bfloat16)
    if on_host:
        sizes = {name: size for name, size in sizes.items() if not name.startswith(EMBEDDING)}
    assert max(sizes.values()) <= LARGEST_BYTES
    joined = [size for name, size in sizes.items() if '_proj.weight' in name]
    assert 3 * max(joined) <= LARGEST_BYTES  # up to three become one
    cache = budget.estimate_inference_bytes(model, torch.bfloat16, SamplingOptions(num_samples=6))
    assert cache['keys and values'] / 2 <= LARGEST_BYTES


def test_int8_keys_and_values_take_half_and_a_scale_per_token_and_head():
    model, _ = release('mixed', 2)
    needed = [
        budget.estimate_inference_bytes(
            model, torch.bfloat16, SamplingOptions(), sizes=budget.InferenceSizes(bits)
        )['keys and values']
        for bits in (16, 8)
    ]
    assert needed[1] == needed[0] * (128 + 2) // (2 * 128)  # a head has 128 numbers


@pytest.mark.parametrize(
    ('recipe', 'device_gb', 'host_gb'),
    [
        ('mixed', 3.864, 3.525),
        ('mixed_expert4', 4.434, 4.095),
        ('mixed_attention4', 4.149, 3.810),
        ('mixed_path4', 4.152, 3.813),
    ],
)
def test_weights_of_the_release_take_what_the_format_says(recipe, device_gb, host_gb):
    model, on_host = release(recipe, 2)
    assert not on_host
    common = (MODEL, 'cpu', model, torch.bfloat16, 2.0, recipe, make_rules(recipe, 2))
    for host_embedding, wanted in ((False, device_gb), (True, host_gb)):
        stored = load_module.LoadPlan(*common, False, host_embedding, ())
        assert stored.weight_bytes / GB == pytest.approx(wanted, abs=1e-3)
    # quantized while it is loaded: its table is no file's
    made = load_module.LoadPlan(*common, True, True, ())
    assert made.weight_bytes / GB == pytest.approx(device_gb, abs=1e-3)


def test_an_inference_of_the_release_fits_the_board_with_one_sample_and_grows_with_six():
    model, _ = release('mixed', 2)
    one, six = (
        budget.estimate_inference_bytes(model, torch.bfloat16, SamplingOptions(num_samples=k))
        for k in (1, 6)
    )
    # 36 layers x 8 heads x 128 x keys and values x 2 bytes = 147,456 bytes a token
    assert one['keys and values'] == 147_456 * 3648  # 16 images of 192, 256 and one sample's 320
    assert six['keys and values'] == 147_456 * 5248
    # 16 images x 192 tokens x 4 levels x 4096 x 2 bytes, twice
    assert one['image features'] == 2 * 16 * 192 * 4 * 4096 * 2
    # 16 pictures of 196,608 pixels as RGB, as patches of 1536 float32, and frames being decoded
    decoded = count_threads() * 2 * 3 * 1920 * 1080
    assert one['images'] == 16 * 196_608 * 3 + 16 * 768 * 1536 * 4 + decoded
    assert 3.864 * GB + sum(one.values()) < 5.3 * GB


def test_budget_counts_the_cameras_and_pixels_that_are_used_and_both_prompts_of_guidance():
    model, _ = release('mixed', 2)

    def estimate(guidance_weight=1.0, **sizes):
        options = SamplingOptions(guidance_weight=guidance_weight)
        choice = budget.InferenceSizes(**sizes)
        return budget.estimate_inference_bytes(model, torch.bfloat16, options, 'cpu', choice)

    whole, two, guided = estimate(), estimate(cameras=2), estimate(1.5)
    decoded = count_threads() * 2 * 3 * 1920 * 1080
    assert two['images'] - decoded == (whole['images'] - decoded) // 2
    assert two['image features'] == whole['image features'] // 2
    assert whole['keys and values'] - two['keys and values'] == 147_456 * 8 * 192
    small = estimate(pixels=196_608 // 2)
    assert small['image features'] == whole['image features'] // 2
    assert guided['keys and values'] == 2 * whole['keys and values']
    assert guided['masks'] == 2 * whole['masks']
    # a second prompt in the layer: 3,072 tokens of 12,288 in the MLP and six states of 4,096
    added = guided['activations and workspace'] - whole['activations and workspace']
    assert added == 3072 * (12_288 + 6 * 4096) * 2
    assert guided['images'] == whole['images']


@pytest.mark.parametrize(
    ('bits', 'recipe', 'host_embedding'),
    [(None, None, False), (16, None, False), (8, 'uniform', False), (2, 'mixed', True)],
)
def test_planned_bytes_are_those_of_the_loaded_tensors(bits, recipe, host_embedding):
    plan = plan_load(MODEL, 'cpu', bits, recipe, host_embedding)
    planned = plan.weight_bytes
    model = load_module.load(plan)
    assert planned == sum(tensor.nbytes for tensor in model.state_dict().values())


def test_embedding_that_stays_plain_stays_in_its_file_while_others_are_packed():
    plan = plan_load(MODEL, 'cpu', 8, 'uniform', host_embedding=True)
    planned = plan.weight_bytes
    tensors = load_module.load(plan).state_dict().items()
    own = sum(tensor.nbytes for name, tensor in tensors if not name.startswith(EMBEDDING))
    assert planned == own


@pytest.mark.parametrize(
    'message',
    [
        'NVML_SUCCESS == DriverAPI::get()->nvmlInit_v2_() INTERNAL ASSERT FAILED at "x.cpp":1',
        'NVML_SUCCESS == DriverAPI::get()->nvmlDeviceGetHandleByPciBusId_v2_( pci_id, &device) '
        'INTERNAL ASSERT FAILED',
        'cuDNN error: CUDNN_STATUS_ALLOC_FAILED',
        'CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`',
        'unable to mmap 4096 bytes from file <a.safetensors>: Cannot allocate memory (12)',
    ],
)
def test_forms_of_no_memory_that_do_not_say_so(message):
    assert memory.is_out_of_memory(RuntimeError(message))


@pytest.mark.parametrize('unified', [False, True])
def test_a_reboot_is_advised_where_the_memory_is_the_machines(monkeypatch, unified):
    from alpamayo_ros.runtime import engine

    monkeypatch.setattr(engine, 'is_unified', lambda device: unified)
    found = engine.AlpamayoEngine(MODEL)._recover_from_out_of_memory('no memory')
    assert str(found).endswith('(no memory); a reboot clears fragmentation') == unified


def test_too_little_memory_for_the_weights_alone_is_said_wherever_a_model_is_loaded(monkeypatch):
    monkeypatch.setattr(memory, 'read_available_bytes', lambda device: 1000)
    monkeypatch.setattr('alpamayo_ros.runtime.load.load', lambda plan: pytest.fail('loaded'))
    with pytest.raises(BadInput, match=r'needs .*weights .*, 0\.00 GB are available on cpu'):
        load_model(MODEL)


def test_what_was_freed_goes_back_to_the_machine():
    def resident_mb():
        return memory.read_resident_bytes()[0] / 1e6

    torch.ones(500_000)  # glibc takes blocks up to the size of one that was freed from its heap
    big, held = [], []
    for _ in range(100):
        big.append(torch.ones(250_000))
        held.append(torch.ones(300))
    before = resident_mb()
    del big
    memory.release_cached()
    assert resident_mb() < before - 90
    assert len(held) == 100


def test_a_command_that_runs_out_of_memory_ends_with_one_line(capsys):
    @command
    def main(argv=None):
        raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB.\nmore')

    assert main() == 2
    message = capsys.readouterr().err
    assert message.endswith(
        'error: out of memory: CUDA out of memory. Tried to allocate 2.00 GiB.\n'
    )


def test_too_little_memory_says_needed_and_available_before_anything_is_read(monkeypatch):
    from alpamayo_ros.runtime.engine import AlpamayoEngine

    monkeypatch.setattr(memory, 'read_available_bytes', lambda device: 300_000_000)
    monkeypatch.setattr('alpamayo_ros.runtime.engine.load', lambda plan: pytest.fail('loaded'))
    message = (
        r'needs 0\.[4-7]\d GB \(weights 0\.00, images 0\.\d\d, '
        r'image features 0\.0\d, keys and values 0\.0\d, '
        r'masks 0\.00, activations and workspace 0\.40\), 0\.30 GB are available on cpu'
    )
    with pytest.raises(BadInput, match=message):
        AlpamayoEngine(MODEL)
    monkeypatch.setattr(memory, 'read_available_bytes', lambda device: 900_000_000)
    with pytest.raises(BadInput, match=r'keys and values 0\.[1-9]\d'):
        AlpamayoEngine(MODEL, options=SamplingOptions(num_samples=2000))


def test_unified_memory_is_that_of_the_machine_and_bounds_the_allocator(monkeypatch, tmp_path):
    fractions = []
    facts = SimpleNamespace(is_integrated=True, total_memory=8 * GB)
    for name, value in (
        ('get_device_properties', lambda device: facts),
        ('mem_get_info', lambda device: pytest.fail('asked the card')),
        ('memory_reserved', lambda device: GB),
        ('set_per_process_memory_fraction', lambda *given: fractions.append(given)),
    ):
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(memory, 'MEMINFO', tmp_path / 'meminfo')
    memory.MEMINFO.write_text('MemTotal: 8000000 kB\nMemAvailable: 5371094 kB\n')
    assert memory.read_available_bytes('cuda') == 5371094 * 1024
    memory.limit_allocator('cuda:1')
    memory.limit_allocator('cuda')
    # (1 GB reserved + 5.5 GB available - 0.3 GB for the system) of 8 GB
    fraction = pytest.approx(0.775, abs=1e-5)
    assert fractions == [(fraction, 1), (fraction, None)]


def test_a_card_of_its_own_is_asked_and_not_limited(monkeypatch):
    facts = SimpleNamespace(is_integrated=False)
    monkeypatch.setattr(torch.cuda, 'get_device_properties', lambda device: facts)
    monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda device: (7 * GB, 8 * GB))
    limits = []
    monkeypatch.setattr(torch.cuda, 'set_per_process_memory_fraction', limits.append)
    assert memory.read_available_bytes('cuda') == 7 * GB
    memory.limit_allocator('cuda')
    memory.limit_allocator('cpu')
    assert limits == []


def allocations(work, folder):
    """Run some work: peak above its end, and largest single piece, of bytes that torch allocated.

    The mapped files of the folder are left out: they are no memory of the process.
    """
    mapped = {file.stat().st_size for file in folder.glob('*.safetensors')}
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as trace:
        kept = work()
    events = [e for e in trace.profiler.kineto_results.events() if e.name() == '[memory]']
    live = peak = largest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        if abs(event.nbytes()) not in mapped:
            live, largest = live + event.nbytes(), max(largest, event.nbytes())
            peak = max(peak, live)
    assert kept is not None and live > 0
    return peak - live, largest


@pytest.fixture
def halves(tmp_path):
    """The reference model of dtype float16 in a file of float32: each tensor is copied."""
    folder = tmp_path / 'halves'
    shutil.copytree(MODEL, folder, ignore=shutil.ignore_patterns('*.npz'))
    config = json.loads((folder / 'config.json').read_text()) | {'dtype': 'float16'}
    (folder / 'config.json').write_text(json.dumps(config))
    return folder


def largest_of(folder):
    tensors = [t for file in folder.glob('*.safetensors') for t in load_file(file).values()]
    return max(tensor.nbytes for tensor in tensors)


def test_loading_takes_no_more_than_a_tensor_above_the_final_size(halves, tmp_path):
    largest = largest_of(halves)
    above, piece = allocations(lambda: load_model(halves), halves)
    assert above <= largest and piece <= largest
    done = quantize([str(halves), str(tmp_path / 'q'), '--bits', '2', '--solver', 'minmax'])
    assert done == 0
    largest = largest_of(tmp_path / 'q')
    above, piece = allocations(lambda: load_model(tmp_path / 'q'), tmp_path / 'q')
    assert above <= largest and piece <= largest


def test_quantizing_while_loading_takes_no_more_than_a_tensor_above(halves, monkeypatch):
    monkeypatch.setattr(matrix, 'PIECE', 1 << 12)
    fast = partial(matrix.quantize_matrix, solver='minmax')
    monkeypatch.setattr(load_module, 'quantize_matrix', fast)
    above, piece = allocations(lambda: load_model(halves, bits=2), halves)
    assert above <= largest_of(MODEL) and piece <= largest_of(MODEL)


def test_the_measure_counts_what_is_freed_again(tmp_path):
    def work():
        kept = torch.ones(1000)
        torch.zeros(50_000)
        return kept

    above, piece = allocations(work, tmp_path)
    assert above == piece == 200_000


@pytest.mark.parametrize('present', [(), ('torch',), ('torch', 'torch.cuda')])
def test_the_peak_of_a_gpu_can_be_asked_for_while_torch_is_imported(monkeypatch, present):
    """The node died when its timer fired in the second in which its engine imported torch."""
    for name in ('torch', 'torch.cuda'):
        monkeypatch.delitem(sys.modules, name, raising=False)
        if name in present:
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
    assert memory.read_gpu_peak_bytes() == 0
