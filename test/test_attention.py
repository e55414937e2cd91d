"""Split attention against the plain one: in Triton's interpreter, and on a GPU if there is one."""

import itertools

import pytest
import torch

from alpamayo_ros.kernels import gpu as gpu_module
from alpamayo_ros.kernels.attention.ops import attend, attend_causal, attend_plain
from alpamayo_ros.kernels.gpu import ORIN_NANO, Gpu

# (batch, heads, kv heads, queries, keys, head_dim, mask dimensions)
CASES = [
    (1, 4, 2, 1, 150, 32, 0),
    (1, 4, 2, 3, 259, 64, 2),
    (2, 2, 2, 24, 130, 16, 4),
    (1, 2, 1, 40, 300, 128, 4),
]


def inputs(case, dtype, device='cpu'):
    batch, heads, kv_heads, queries, keys, dim, mask_dims = case
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator).to(device, dtype)

    q = draw(batch, heads, queries, dim)
    cache = draw(2, batch, kv_heads, keys + 9, dim)  # a view of a longer cache, as in the model
    shape = {2: (queries, keys), 4: (batch, 1, queries, keys)}.get(mask_dims)
    mask = None
    if shape:
        mask = (torch.rand(shape, generator=generator) < 0.5).to(device)
        mask[..., 0] = True
        mask[..., keys // 2 :] = False  # whole parts of the keys that nobody sees
    return q, cache[0, :, :, :keys], cache[1, :, :, :keys], mask


def reference(q, k, v, mask):
    """Softmax written out in float64, keys repeated per head."""
    group = q.shape[1] // k.shape[1]
    q, k, v = (x.double() for x in (q, k, v))
    k, v = (x.repeat_interleave(group, 1) for x in (k, v))
    score = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if mask is not None:
        score = score.masked_fill(~mask, -torch.inf)
    return score.softmax(-1) @ v


@pytest.mark.parametrize('case', CASES)
def test_plain_attention_equals_the_written_out_softmax(case):
    arguments = inputs(case, torch.float32)
    assert (attend_plain(*arguments) - reference(*arguments)).abs().max() < 1e-5


def check_causal(queries, device):
    q, k, v, _ = inputs((1, 8, 2, queries, 300, 64, 0), torch.float32, device)
    token = torch.arange(300, device=device)
    mask = token <= token[300 - queries :].unsqueeze(-1)
    assert (attend_causal(q, k, v) - reference(q, k, v, mask)).abs().max() < 1e-5


@pytest.mark.parametrize('queries', [300, 77, 1])
def test_causal_attention_of_the_last_tokens_equals_the_masked_softmax(queries):
    check_causal(queries, 'cpu')


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('queries', [300, 77, 1])
def test_causal_attention_on_the_gpu_equals_the_masked_softmax(queries):
    check_causal(queries, 'cuda')


def counted(case, dtype, device='cpu', visible=0.7):
    """Inputs without a mask, and the number of keys that every query sees."""
    q, k, v, _ = inputs(case, dtype, device)
    count = torch.tensor(int(visible * k.shape[2]), device=device)
    return q, k, v, None, count


def first_keys(q, k, v, mask, count):
    """Reference for a number of visible keys: the others are cut off."""
    return reference(q, k[:, :, : int(count)], v[:, :, : int(count)], mask)


@pytest.mark.parametrize('case', CASES)
def test_a_number_of_visible_keys_hides_the_others(case):
    arguments = counted(case, torch.float32)
    assert (attend(*arguments) - first_keys(*arguments)).abs().max() < 1e-5


def test_few_multiprocessors_take_blocks_of_128_rows_and_split_no_keys():
    tile = pytest.importorskip('alpamayo_ros.kernels.attention.tile', reason='needs triton')
    choose_tile, AttentionTile = tile.choose_tile, tile.AttentionTile
    flow = {'rows': 128, 'kv_heads': 8, 'keys': 3136}  # two query heads of 64 waypoints
    assert choose_tile(**flow, gpu=ORIN_NANO) == AttentionTile(128, 32, 1, 8)
    assert choose_tile(**flow, gpu=Gpu((9, 0), 132)).splits == 16
    assert choose_tile(4, 8, 3136, ORIN_NANO).splits == 2  # two blocks a multiprocessor
    six_samples = choose_tile(768, 8, 3520, Gpu((9, 0), 132))
    assert six_samples.splits == 4  # 2 took half as long again
    assert choose_tile(4, 8, 3136, Gpu((9, 0), 132)).splits == 32
    assert choose_tile(4, 8, 200, Gpu((9, 0), 132)).splits == 2  # a split has 128 keys or so


@pytest.mark.parametrize('dtype', ['float32', 'float16'])
def test_split_kernel_in_the_interpreter_equals_the_softmax(interpreted, dtype):
    interpreted(f'import test_attention as t; t.check_interpreted({dtype!r})')


def quantized(q, k, v, *others):
    """The inputs with int8 keys and values; the keys and values that these stand for."""
    stored, scales = [], []
    for x in (k, v):
        scale = (x.abs().amax(-1) / 127).to(x.dtype)
        stored.append((x / scale.unsqueeze(-1)).round().clamp(-127, 127).to(torch.int8))
        scales.append(scale)
    exact = [x.double() * s.double().unsqueeze(-1) for x, s in zip(stored, scales, strict=True)]
    return (q, *stored, *others, *[None] * (2 - len(others)), *scales), exact


@pytest.mark.parametrize('case', CASES)
def test_int8_keys_and_values_are_those_times_their_scales(case):
    q, k, v, mask = inputs(case, torch.float32)
    arguments, exact = quantized(q, k, v, mask)
    assert (attend(*arguments) - reference(q, *exact, mask)).abs().max() < 1e-5
    causal = attend_causal(q, *arguments[1:3], *arguments[5:])
    token = torch.arange(k.shape[2])
    ahead = token <= token[k.shape[2] - q.shape[2] :].unsqueeze(-1)
    assert (causal - reference(q, *exact, ahead)).abs().max() < 1e-5


def check_interpreted(dtype):
    from alpamayo_ros.kernels.attention.split import attend_split
    from alpamayo_ros.kernels.attention.tile import AttentionTile

    limit = {'float32': 1e-5, 'float16': 4e-3}[dtype]
    tiles = itertools.cycle([AttentionTile(16, 64, 1, 4), AttentionTile(64, 32, 4, 4), None])
    for case, tile in zip([*CASES, *CASES], tiles, strict=False):  # two of three tiles each
        arguments = inputs(case, getattr(torch, dtype))
        result = attend_split(*arguments, tile=tile).double()
        error = (result - reference(*arguments)).abs().max()
        assert error < limit, (case, tile, float(error))
        arguments = counted(case, getattr(torch, dtype))
        result = attend_split(*arguments, tile=tile).double()
        error = (result - first_keys(*arguments)).abs().max()
        assert error < limit, (case, tile, float(error))
        arguments, exact = quantized(*arguments)
        result = attend_split(*arguments, tile=tile).double()
        error = (result - first_keys(arguments[0], *exact, *arguments[3:5])).abs().max()
        assert error < limit, (case, tile, float(error))


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('case', [(1, 32, 8, 1, 3136, 128, 0), (1, 16, 8, 64, 3136, 128, 0)])
def test_int8_keys_and_values_on_the_gpu(case):
    arguments, exact = quantized(*counted(case, torch.bfloat16, 'cuda'))
    error = (attend(*arguments) - first_keys(arguments[0], *exact, *arguments[3:5])).abs().max()
    assert error < 2e-2


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    'case',
    [
        *CASES,
        (1, 32, 8, 1, 3100, 128, 2),
        (1, 16, 8, 64, 3200, 128, 4),
        (1, 16, 8, 384, 3648, 128, 4),
    ],
)
def test_split_kernel_on_the_gpu_equals_the_softmax(case, dtype):
    arguments = inputs(case, dtype, 'cuda')
    error = (attend(*arguments).double() - reference(*arguments)).abs().max()
    limits = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
    assert error < limits[dtype]


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('gpu', [None, ORIN_NANO], ids=['own', 'orin'])
@pytest.mark.parametrize('visible', [0.02, 0.7, 1.0])
@pytest.mark.parametrize('case', [(1, 32, 8, 1, 3136, 128, 0), (1, 16, 8, 64, 3136, 128, 0)])
def test_a_number_of_visible_keys_on_the_gpu(case, visible, gpu, monkeypatch):
    """The tiles of this GPU, and those of an Orin Nano."""
    monkeypatch.setattr(gpu_module, '_assumed', gpu)
    arguments = counted(case, torch.bfloat16, 'cuda', visible)
    error = (attend(*arguments).double() - first_keys(*arguments)).abs().max()
    assert error < 2e-2
