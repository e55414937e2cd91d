"""Kernels compile for an Orin and an H200: the interpreter does not tell, and no GPU is needed.

The packed products are compiled by `alpamayo_benchmark kernels`; see test_benchmark.
"""

from importlib import import_module

import pytest

from alpamayo_ros.kernels.packing import count_digits

ORIN, H200 = 87, 90  # numbers behind sm_; the second one's kernels overlap
BF16, FP32, INT64, UINT8 = '*bf16', '*fp32', '*i64', '*u8'
VISION_HEADS = {'X_HEAD': 72, 'DIM': 72, 'HEADS': 32, 'COLUMNS': 64}
ROTATED = {'cos_ptr': FP32, 'sin_ptr': FP32}
NO_SCALES = {'key_scales_ptr': None, 'value_scales_ptr': None}
INT8_CACHE = {'keys_ptr': '*i8', 'values_ptr': '*i8'}
PARTIAL = {'partial_ptr': FP32, 'peak_ptr': FP32, 'total_ptr': FP32}
# kernel, constants, types of pointers that are not bf16
CASES = [
    ('norm', '_rms_norm_kernel', {'BLOCK': 4096, 'SPLITS': 0}, {}),
    ('norm', '_rms_norm_kernel', {'BLOCK': 4096, 'SPLITS': 4}, {'terms_ptr': FP32}),
    ('swiglu', '_swiglu_kernel', {'BLOCK': 1024}, {}),
    (
        'kv_cache',
        '_rotate_kernel',
        NO_SCALES | {'HEADS': 8, 'DIM': 128},
        {'slots_ptr': INT64},
    ),
    (
        'kv_cache',
        '_rotate_kernel',
        {'HEADS': 8, 'DIM': 128},
        {'slots_ptr': INT64} | INT8_CACHE,
    ),
    ('rotary', '_rotate_heads_kernel', VISION_HEADS, ROTATED),
    ('norm', '_add_layer_norm_kernel', {'BLOCK': 2048}, {}),
    ('attention.split_kernels', 'merge_kernel', {'SPLITS': 32, 'DIM': 128}, PARTIAL),
]


def machine_code(kernel, constants, types, capability):
    """What a kernel compiles to; an error of Triton where there is none."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    if 'OVERLAP' in kernel.arg_names:
        constants = constants | {'OVERLAP': 2 * (capability == H200)}
    kinds = {n: types.get(n, BF16 if n.endswith('_ptr') else 'i32') for n in kernel.arg_names}
    kinds |= dict.fromkeys(constants, 'constexpr')
    kinds |= {name: 'fp32' for name in ('eps', 'least', 'scale') if name in kinds}
    source = ASTSource(kernel, kinds, constants)
    return triton.compile(source, target=GPUTarget('cuda', capability, 32)).asm['cubin']


@pytest.mark.parametrize('capability', [ORIN, H200])
@pytest.mark.parametrize(
    'case', CASES, ids=lambda case: case[1] + str(case[2].get('ROWS', case[2].get('SPLITS', '')))
)
def test_kernel_compiles(case, capability):
    pytest.importorskip('triton', reason='triton is not installed')
    module, name, constants, types = case
    kernel = getattr(import_module(f'alpamayo_ros.kernels.{module}'), name)
    assert len(machine_code(kernel, constants, types, capability)) > 1000


@pytest.mark.parametrize('gpu', [(8, 7, 8), (9, 0, 132)], ids=['orin', 'h200'])
@pytest.mark.parametrize('columns', [1152, 4096, 4304, 4608, 12288])
def test_quantized_rows_stay_in_registers(columns, gpu):
    pytest.importorskip('triton', reason='triton is not installed')
    from alpamayo_ros.kernels.compiled import compile_kernel
    from alpamayo_ros.kernels.gpu import Gpu
    from alpamayo_ros.kernels.int8 import rows

    *capability, multiprocessors = gpu
    gpu = Gpu(tuple(capability), multiprocessors)
    tile, warps = rows.choose_row_tile(gpu)
    first, left, height = rows.split_blocks(rows.fill_up(columns) // 64, tile)
    types = {'out_ptr': '*i8', 'scale_ptr': '*fp32'}
    types |= dict.fromkeys(['x_ptr', 'full_ptr', 'rest_ptr'], '*bf16')
    constants = {'HAS_REST': columns % 64 != 0, 'EXACT': False, 'BLOCK': 64}
    constants |= {'BLOCKS': first, 'LEFT': left, 'ROWS': height}
    aligned = 'columns', 'x_row', 'width'
    kernel = rows._quantize_kernel
    counts = compile_kernel(kernel, types, constants, gpu, warps, aligned)
    assert counts.spilled_bytes == 0


@pytest.mark.parametrize('gpu', [(8, 7, 8), (9, 0, 132)], ids=['orin', 'h200'])
@pytest.mark.parametrize('levels', [4, 16])
def test_weights_become_int8_in_nine_instructions(levels, gpu):
    """Byte by byte it took 13 on an H200 and 19 on an Orin, which a prompt waited for."""
    pytest.importorskip('triton', reason='triton is not installed')
    import torch

    from alpamayo_ros.kernels.assembly import assemble_words
    from alpamayo_ros.kernels.compiled import compile_kernel
    from alpamayo_ros.kernels.gpu import Gpu
    from alpamayo_ros.kernels.int8 import words

    *capability, multiprocessors = gpu
    code = assemble_words(levels, torch.bfloat16)
    constants = {'LEVELS': levels, 'DIGITS': count_digits(levels), 'GROUP': 128, 'EXACT': False}
    constants |= {'ASSEMBLY': code.assembly, 'CONSTRAINTS': code.constraints, 'BLOCK': 64}
    constants |= {'STEP': 128, 'STEPS': words.MOST_STEPS, 'ROWS': words.ROWS}
    types = dict.fromkeys(['scale_ptr', 'shift_ptr', 'full_ptr'], BF16)
    types |= {'data_ptr': '*i32', 'row_scale_ptr': FP32, 'out_ptr': '*i8'}
    gpu = Gpu(tuple(capability), multiprocessors)
    kernel = words.unpack_words_kernel
    counts = compile_kernel(kernel, types, constants, gpu, 4, ('columns', 'start'))
    assert counts.spilled_bytes == 0
    assert counts.loop_instructions * 4 * 32 / (words.ROWS * 128) < 9


@pytest.mark.parametrize('gpu', [(8, 7, 8), (9, 0, 132)], ids=['orin', 'h200'])
@pytest.mark.parametrize('columns', [4096, 1152])
def test_norms_that_quantize_stay_in_registers(columns, gpu):
    pytest.importorskip('triton', reason='triton is not installed')
    from alpamayo_ros.kernels.compiled import compile_kernel
    from alpamayo_ros.kernels.gpu import Gpu
    from alpamayo_ros.kernels.int8 import norms, rows

    *capability, multiprocessors = gpu
    gpu = Gpu(tuple(capability), multiprocessors)
    blocks = rows.fill_up(columns) // 64
    first, left, height = rows.split_blocks(blocks, norms.TILE_BLOCKS)
    pointers = ['x_ptr', 'terms_ptr', 'total_ptr', 'weight_ptr', 'bias_ptr']
    types = dict.fromkeys([*pointers, 'full_ptr', 'rest_ptr'], BF16)
    types |= {'out_ptr': '*i8', 'scale_ptr': FP32, 'eps': 'fp32'}
    constants = {'SPLITS': 1, 'HAS_REST': False, 'EXACT': False, 'BLOCK': 64, 'BLOCKS': first}
    constants |= {'LEFT': left, 'ROWS': height}
    constants |= {'bias_ptr': None} if columns == 4096 else {}  # a root-mean-square norm
    aligned = 'columns', 'x_row', 'total_row', 'width', 'terms_size'
    kernel = norms._norm_int8_kernel
    counts = compile_kernel(kernel, types, constants, gpu, norms.WARPS, aligned)
    assert counts.spilled_bytes == 0


# query rows of a kv head, keys, mask: a token, a flow step, and those of six samples
ATTENTION = [(4, 3136, False), (24, 3136, True), (128, 3136, False), (768, 3520, True)]


@pytest.mark.parametrize('gpu', [(8, 7, 8), (9, 0, 132)], ids=['orin', 'h200'])
@pytest.mark.parametrize('case', ATTENTION, ids=str)
def test_attention_keeps_everything_in_registers(case, gpu):
    """With a mask and its tail, the tile of a flow step spilled on an Orin."""
    pytest.importorskip('triton', reason='triton is not installed')
    from attention_counts import count_attention

    from alpamayo_ros.kernels.gpu import Gpu

    rows, keys, has_mask = case
    *capability, multiprocessors = gpu
    counts = count_attention(rows, 8, keys, has_mask, Gpu(tuple(capability), multiprocessors))
    assert counts.kernel.spilled_bytes == 0
    assert counts.kernel.tensor_core_instructions > 0


def test_attention_of_a_flow_step_on_an_orin_takes_a_fifth_of_what_it_took():
    """By 36 layers: 413 million warp instructions with a mask, on tiles of 64 rows."""
    pytest.importorskip('triton', reason='triton is not installed')
    from attention_counts import count_attention

    from alpamayo_ros.kernels.gpu import ORIN_NANO

    assert 36 * count_attention(128, 8, 3136, False, ORIN_NANO).million_instructions < 413 / 5


@pytest.mark.parametrize('levels', [4, 16])
@pytest.mark.parametrize('rows', [1, 8, 64])
def test_packed_products_keep_everything_in_registers_on_an_h200(rows, levels):
    """On Hopper, blocks that shared no byte rows spilled, and products waited for each other."""
    pytest.importorskip('triton', reason='triton is not installed')
    from alpamayo_ros.kernels.compiled import count_product
    from alpamayo_ros.kernels.gpu import Gpu
    from alpamayo_ros.kernels.packed_products import product_sizes

    sizes = product_sizes(rows, 4096, 128, levels, (12288, 12288))
    counts = count_product(sizes, Gpu((9, 0), 132)).kernel
    assert counts.spilled_bytes == 0
    assert counts.tensor_core_instructions > 0


@pytest.mark.parametrize('levels', [3, 4, 5, 16, 256])
def test_unpacking_compiles(levels):
    pytest.importorskip('triton', reason='triton is not installed')
    from alpamayo_ros.kernels import unpack

    sizes = {'GROUP': 128, 'STEP': 128, 'STEPS_PER_GROUP': 1, 'ROWS': unpack.ROWS}
    constants = {'LEVELS': levels, 'DIGITS': count_digits(levels), 'OVERLAP': 0, **sizes}
    types = {'data_ptr': '*i8' if levels == 256 else UINT8, 'rows_ptr': INT64}
    assert len(machine_code(unpack._unpack_kernel, constants, types, ORIN)) > 1000
