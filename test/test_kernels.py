"""Packed linear layers: every path, width and odd shape against the matrix in float64."""

import itertools

import pytest
import torch

from alpamayo_ros.kernels import packed_ops, packing
from alpamayo_ros.quantization.scheme import SCHEMES, QuantScheme

WIDTHS = [scheme for scheme in SCHEMES.values() if scheme.levels]
# relative error of a product: sums in float32, one rounding of weights, one of the result
ERRORS = {'float32': 2e-6, 'float16': 1e-3, 'bfloat16': 6e-3}
# (rows, columns): the model's odd groups (96, 64, a whole row, 60) in small
SHAPES = [(40, 256), (60, 192), (20, 320), (100, 304), (20, 60)]


def random_weight(scheme, rows, columns, dtype, seed=0):
    """Stored tensors of a random matrix, and the matrix itself in float64."""
    generator = torch.Generator().manual_seed(seed)
    rows = scheme.pad(rows)
    shapes = scheme.list_shapes(rows, columns)
    size = packing.count_digits(scheme.levels)
    if scheme.levels == 256:
        data = torch.randint(-127, 128, shapes['._data'], generator=generator, dtype=torch.int8)
    else:
        count, group = shapes['._data._data']
        shape = size, count, group
        codes = torch.randint(0, scheme.levels, shape, generator=generator, dtype=torch.int32)
        data = packing.pack(codes.to(torch.uint8), scheme.levels)
    scale = (torch.rand(shapes['._scale'], generator=generator) * 0.1 + 0.05).to(dtype)
    shift = (torch.rand(shapes['._scale'], generator=generator) * 0.3).to(dtype)
    if not scheme.shifted:
        shift = scale if scheme.levels == 3 else None
    wide = [None if t is None else t.double() for t in (scale, shift)]
    index = torch.arange(rows)
    wide = packing.PackedMatrix(data, *wide, scheme.levels)
    matrix = packing.unpack_rows(wide, columns, index)
    return packing.PackedMatrix(data, scale, shift, scheme.levels), matrix


def draw(rows, columns, dtype):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(1)).to(dtype)


def to(device, stored):
    tensors = [t.to(device) if isinstance(t, torch.Tensor) else t for t in stored]
    return packing.PackedMatrix(*tensors)


def relative(got, want):
    got = got.cpu().double()
    assert got.isfinite().all()
    return float((got - want).norm() / want.norm())


@pytest.mark.parametrize('scheme', WIDTHS, ids=lambda s: f'{s.bits:g}')
@pytest.mark.parametrize('shape', [*SHAPES, (33, 128), (7, 64)], ids=str)
def test_plain_product_is_that_of_the_matrix(scheme, shape):
    stored, matrix = random_weight(scheme, *shape, torch.float32)
    x = draw(5, shape[1], torch.float32)
    y = packed_ops.packed_linear(x, *stored, [len(matrix)])
    assert relative(y, x.double() @ matrix.T) < ERRORS['float32']


def test_two_bit_bytes_by_hand():
    # N = 8, K = 2: byte row j holds rows j, j + 2, j + 4 and j + 6, lowest bits first
    data = torch.tensor([[0b11100100, 0b00011011], [0b00000001, 0b01000000]], dtype=torch.uint8)
    scale, shift = torch.full((8, 1), 0.5), torch.full((8, 1), 1.0)
    matrix = packing.unpack_rows(packing.PackedMatrix(data, scale, shift, 4), 2, torch.arange(8))
    codes = [[0, 3], [1, 0], [1, 2], [0, 0], [2, 1], [0, 0], [3, 0], [0, 1]]
    assert torch.equal(matrix, torch.tensor(codes) * 0.5 - 1.0)


@pytest.mark.parametrize('scheme', WIDTHS, ids=lambda s: f'{s.bits:g}')
def test_product_is_the_same_in_pieces(scheme, monkeypatch):
    stored, matrix = random_weight(scheme, 100, 304, torch.float32)
    x = draw(3, 304, torch.float32)
    whole = packed_ops.packed_linear(x, *stored, [len(matrix)])
    monkeypatch.setattr(packed_ops, 'SCRATCH_BYTES', 7 * 304 * 4)
    assert torch.allclose(packed_ops.packed_linear(x, *stored, [len(matrix)]), whole, atol=1e-5)
    bias = draw(1, len(matrix), torch.float32)[0]
    with_bias = packed_ops.packed_linear(x, *stored, [len(matrix)], bias)
    assert torch.allclose(with_bias, whole + bias, atol=1e-5)


@pytest.mark.parametrize(
    ('count', 'limit', 'sizes'),
    [(12288, 4101, [4096] * 3), (4096, 1365, [1024] * 4), (300, 1365, [300]), (20, 7, [7, 7, 6])],
)
def test_pieces_are_whole_blocks_of_128_rows_where_they_can_be(count, limit, sizes):
    # cuBLAS took twice as long for pieces of 4101 rows
    size = packing.even_chunk(count, limit)
    assert [min(size, count - at) for at in range(0, count, size)] == sizes


@pytest.mark.parametrize('scheme', WIDTHS, ids=lambda s: f'{s.bits:g}')
def test_embedding_gives_rows_of_the_matrix(scheme):
    stored, matrix = random_weight(scheme, 33, 256, torch.float32)
    ids = torch.tensor([[32, 0, 7], [7, 8, 31]])
    rows = packed_ops.packed_embedding(ids, *stored, 256)
    assert rows.shape == (2, 3, 256)
    assert torch.allclose(rows.double(), matrix[ids], atol=1e-6)


def joined(scheme, dtype):
    """Three matrices in one tensor, and the three of them."""
    weights = [random_weight(scheme, n, 256, dtype, seed) for seed, n in enumerate((60, 20, 40))]
    stored = [
        torch.cat(ts) if ts[0] is not None else None
        for ts in zip(*(w[0][:3] for w in weights), strict=True)
    ]
    if scheme.levels == 3:
        stored[2] = stored[1]
    return packing.PackedMatrix(*stored, scheme.levels), torch.cat(
        [matrix for _, matrix in weights]
    )


@pytest.mark.parametrize('scheme', WIDTHS, ids=lambda s: f'{s.bits:g}')
def test_joined_matrices_give_their_outputs_in_order(scheme):
    stored, matrix = joined(scheme, torch.float32)
    x = draw(2, 256, torch.float32)
    y = packed_ops.packed_linear(x, *stored, [60, 20, 40])
    assert relative(y, x.double() @ matrix.T) < ERRORS['float32']


def gated(scheme, rows, columns, dtype):
    """Gate and up of so many rows in one tensor, and both matrices."""
    weights = [random_weight(scheme, rows, columns, dtype, seed) for seed in (0, 1)]
    data, scale, shift, _ = (
        torch.cat(ts) if isinstance(ts[0], torch.Tensor) else None
        for ts in zip(*(stored for stored, _ in weights), strict=True)
    )
    shift = scale if scheme.levels == 3 else shift
    return packing.PackedMatrix(data, scale, shift, scheme.levels), [
        matrix for _, matrix in weights
    ]


def silu_product(x, gate, up):
    return torch.nn.functional.silu(x.double() @ gate.T) * (x.double() @ up.T)


@pytest.mark.parametrize('scheme', WIDTHS, ids=lambda s: f'{s.bits:g}')
def test_swiglu_of_joined_matrices_is_that_of_both(scheme):
    stored, matrices = gated(scheme, 40, 256, torch.float32)
    x = draw(3, 256, torch.float32)
    y = packed_ops.packed_swiglu(x, *stored, [40, 40])
    assert relative(y, silu_product(x, *matrices)) < ERRORS['float32']


@pytest.mark.parametrize(
    'op', ['packed_linear', 'packed_terms', 'packed_swiglu', 'packed_embedding']
)
def test_op_has_a_sound_schema(op):
    stored, _ = random_weight(SCHEMES[2], 8, 128, torch.float32)
    arguments = {
        'packed_linear': (draw(2, 128, torch.float32), *stored, [8]),
        'packed_terms': (draw(2, 128, torch.float32), *stored, [8]),
        'packed_swiglu': (draw(2, 128, torch.float32), *stored, [4, 4]),
        'packed_embedding': (torch.tensor([1, 3]), *stored, 128),
    }
    torch.library.opcheck(getattr(torch.ops.alpamayo_ros, op).default, arguments[op])


def check_paths(dtype, device, widths=WIDTHS):
    """Every kernel on odd shapes, few rows and many; splits of K as chosen and forced."""
    from alpamayo_ros.kernels import packed_products, unpack

    limit, dtype = ERRORS[dtype], getattr(torch, dtype)
    forced = packed_products.Tile(rows=16, warps=4, splits=2, stages=2, shares=2)
    for scheme, shape in itertools.product(widths, [*SHAPES, 'joined']):
        if isinstance(shape, str):
            stored, matrix = joined(scheme, dtype)
            rows = [60, 20, 40]
        else:
            stored, matrix = random_weight(scheme, *shape, dtype)
            rows = [len(matrix)]
        columns, stored = matrix.shape[1], to(device, stored)
        for count in (1, 6, 16, 64, 70) if shape == 'joined' else (1, 64):
            x = draw(count, columns, dtype)
            for tile in (None, forced):
                terms = packed_products.multiply(x.to(device), stored, rows, tile)
                y = packed_products.sum_terms(terms, dtype)
                error = relative(y, x.double() @ matrix.T)
                assert error < limit, (scheme, shape, count, tile, error)
        if len(rows) == 1:
            dense = unpack.unpack_range_triton(stored, columns, 3, len(matrix) - 1)
            assert relative(dense, matrix[3:-1]) < limit, (scheme, shape)
            chosen = torch.tensor([2, 0, len(matrix) - 1, 2])
            dense = unpack.unpack_rows_triton(stored, columns, chosen.to(device))
            assert relative(dense, matrix[chosen]) < limit, (scheme, shape)


def check_whole_words(dtype, device):
    """Rows in several digits and blocks, columns in several steps; nothing behind the last row."""
    from alpamayo_ros.kernels import unpack

    for scheme in (SCHEMES[2], SCHEMES[4]):
        stored, matrix = random_weight(scheme, 72, 18 * 128, getattr(torch, dtype))
        out = torch.full((69, 18 * 128), 9.0, dtype=getattr(torch, dtype), device=device)
        unpack.unpack_into(out[:-1], to(device, stored), 3)
        assert relative(out[:-1], matrix[3:-1]) < ERRORS[dtype], scheme
        assert (out[-1] == 9).all()


def check_other_widths():
    """Unpack what no row of the table has: bytes whose digits are no whole bits."""
    from alpamayo_ros.kernels import unpack

    for levels in (5, 6, 8):
        scheme = QuantScheme(3, levels, grouped=True, shifted=True, layout='any')
        stored, matrix = random_weight(scheme, 20, 320, torch.float32)
        dense = unpack.unpack_range_triton(stored, 320, 0, len(matrix))
        assert relative(dense, matrix) < ERRORS['float32'], levels


def check_swiglu(dtype, device, widths=WIDTHS):
    """Few rows through the kernels, many piece by piece, the last piece a smaller one."""
    limit, dtype = 3 * ERRORS[dtype], getattr(torch, dtype)  # of two products and a curve
    for scheme in widths:
        stored, matrices = gated(scheme, 300, 256, dtype)
        packed_ops.SCRATCH_BYTES = 2 * 128 * 256 * dtype.itemsize
        for count in (1, 6, 64, 130):
            x = 0.02 * draw(count, 256, dtype)  # float16 ends at 65504
            y = packed_ops.packed_swiglu_cuda(x.to(device), to(device, stored), [300, 300])
            error = relative(y, silu_product(x, *matrices))
            assert error < limit, (scheme, count, error)
            terms = packed_ops.packed_terms_cuda(x.to(device), to(device, stored), [300, 300])
            error = relative(terms.sum(0), x.double() @ torch.cat(matrices).T)
            assert error < limit, (scheme, count, error)


@pytest.mark.parametrize(('dtype', 'first'), [('float32', 0), ('float16', 1)])
@pytest.mark.parametrize('check', ['check_paths', 'check_swiglu'])
def test_kernels_in_the_interpreter(interpreted, check, dtype, first):
    """Every second width in each dtype, as the interpreter is slow; a GPU takes all in both."""
    call = f"t.{check}({dtype!r}, 'cpu', t.WIDTHS[{first}::2])"
    interpreted(f'import test_kernels as t; {call}')


@pytest.mark.parametrize('check', ['check_other_widths()', "check_whole_words('float16', 'cpu')"])
def test_unpacking_in_the_interpreter(interpreted, check):
    interpreted(f'import test_kernels as t; t.{check}')


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device: assembly')
@pytest.mark.parametrize('dtype', ['float32', 'float16', 'bfloat16'])
def test_whole_words_on_the_gpu(dtype):
    check_whole_words(dtype, 'cuda')


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device: bf16, assembly')
@pytest.mark.parametrize('scheme', WIDTHS, ids=lambda s: f'{s.bits:g}')
@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_kernels_on_the_gpu(dtype, scheme, monkeypatch):
    check_paths(dtype, 'cuda', [scheme])
    monkeypatch.setattr(packed_ops, 'SCRATCH_BYTES', packed_ops.SCRATCH_BYTES)
    check_swiglu(dtype, 'cuda', [scheme])


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device: bf16, assembly')
@pytest.mark.parametrize('scheme', WIDTHS, ids=lambda s: f'{s.bits:g}')
@pytest.mark.parametrize('shape', [(155697, 128), (1152, 4304), (2048, 8256)], ids=str)
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_op_on_the_gpu_at_the_models_own_sizes(dtype, shape, scheme):
    stored, matrix = random_weight(scheme, *shape, getattr(torch, dtype))
    stored = to('cuda', stored)
    for rows in (1, 17, 300):
        x = draw(rows, shape[1], getattr(torch, dtype))
        y = packed_ops.packed_linear(x.cuda(), *stored, [len(matrix)])
        assert relative(y, x.double() @ matrix.T) < ERRORS[dtype], rows
        bias = draw(1, len(matrix), getattr(torch, dtype))[0]
        y = packed_ops.packed_linear(x.cuda(), *stored, [len(matrix)], bias.cuda())
        assert relative(y, x.double() @ matrix.T + bias.double()) < ERRORS[dtype], rows
