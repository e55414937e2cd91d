"""Products of int8 activations: rotation, rows, weights, outliers; kernels against their twins."""

import golden_scene
import numpy as np
import pytest
from test_kernels import draw, gated, joined, random_weight, relative, silu_product, to
import torch
from torch import nn

from alpamayo_ros.data_types import SamplingOptions
from alpamayo_ros.kernels.int8 import norms, ops, rotation, rows, weights
from alpamayo_ros.quantization import int8, linear
from alpamayo_ros.quantization.linear import QuantLinear
from alpamayo_ros.quantization.scheme import SCHEMES
from alpamayo_ros.runtime.engine import AlpamayoEngine

WIDTHS = [SCHEMES[bits] for bits in (1.58, 2, 4, 8)]
COLUMNS = (256, 192, 320, 304)  # 304 = 4 * 64 + 3 * 16


def multiply(x, stored, heights, gate=False):
    """The layer's output as the model gets it."""
    scales = torch.cat(
        [weights.compute_weight_scales(part, x.shape[-1]) for part in stored.split(heights)]
    )
    quantized = rows.quantize_rows(x)
    return ops.packed_int8(*quantized, *stored, heights, scales, gate)


@pytest.mark.parametrize('columns', [64, 304, 85])
def test_rotation_keeps_products(columns):
    x, w = (torch.randn(n, columns, generator=torch.Generator().manual_seed(n)) for n in (3, 5))
    turned = rotation.rotate_plain(x) @ rotation.rotate_plain(w).T
    assert torch.allclose(turned, x @ w.T, atol=1e-4)


def test_rotation_spreads_one_channel_over_its_block():
    x = torch.zeros(1, 304)
    x[0, 70] = 8.0
    turned = rotation.rotate_plain(x)[0]
    assert turned[64:128].abs().allclose(torch.ones(64))
    assert turned[:64].abs().max() == turned[128:].abs().max() == 0
    x = torch.eye(85)[[70, 81, 84]]  # behind the blocks of 64: one each of 16, 4 and 1
    for row, size, start in zip(rotation.rotate_plain(x), (16, 4, 1), (64, 80, 84), strict=True):
        assert row[start : start + size].abs().allclose(torch.full((size,), size**-0.5))


def test_rows_are_int8_of_their_largest_value():
    x = draw(4, 304, torch.float32) * torch.tensor([[1.0], [1e-3], [0.0], [50.0]])
    values, scale = rows.quantize_rows(x)
    assert values.dtype == torch.int8
    assert values[[0, 1, 3]].abs().amax(1).tolist() == [127] * 3
    assert (values[2] == 0).all()
    assert values.shape == (4, 384)  # whole steps
    error = values[:, :304] * scale.unsqueeze(1) - rotation.rotate_plain(x)
    assert (error.abs() <= 0.5001 * scale.unsqueeze(1)).all()


@pytest.mark.parametrize(('curve', 'kind'), [('tanh', 'tanh'), ('erf', 'none')])
def test_gelu_of_a_product_is_that_of_torch(curve, kind):
    layer = nn.Linear(64, 48)
    x, own = draw(3, 64, torch.float32), int8.Int8Linear(layer)
    want = torch.nn.functional.gelu(own(x), approximate=kind)
    assert torch.equal(own.multiply_gelu(x, kind), want)
    assert relative(want, torch.nn.functional.gelu(layer(x), approximate=kind)) < 0.02


@pytest.mark.parametrize('scheme', WIDTHS, ids=lambda s: f'{s.bits:g}')
@pytest.mark.parametrize('columns', COLUMNS)
def test_product_is_near_that_of_the_matrix(scheme, columns):
    stored, matrix = random_weight(scheme, 40, columns, torch.float32)
    x = draw(20, columns, torch.float32)
    y = multiply(x, stored, [len(matrix)])
    assert 1e-4 < relative(y, x.double() @ matrix.T) < 0.015


@pytest.mark.parametrize('scheme', WIDTHS, ids=lambda s: f'{s.bits:g}')
def test_joined_and_gated_products(scheme):
    stored, matrix = joined(scheme, torch.float32)
    x = draw(20, 256, torch.float32)
    y = multiply(x, stored, [60, 20, 40])
    assert relative(y, x.double() @ matrix.T) < 0.015
    stored, matrices = gated(scheme, 40, 256, torch.float32)
    y = multiply(0.1 * x, stored, [40, 40], gate=True)
    assert relative(y, silu_product(0.1 * x, *matrices)) < 0.03


@pytest.mark.parametrize('columns', [1152, 4304, 4096])
def test_outlier_channels_cost_at_most_twice_the_error(columns):
    stored, matrix = random_weight(SCHEMES[8], 32, columns, torch.float32)
    x = draw(16, columns, torch.float32)
    clean = relative(multiply(x, stored, [32]), x.double() @ matrix.T)
    x[:, [3, columns // 3, columns // 2, columns - 2]] *= 50
    planted = relative(multiply(x, stored, [32]), x.double() @ matrix.T)
    assert planted < 2 * clean
    values = (x / (x.abs().amax(1, keepdim=True) / 127)).round()  # without a rotation
    plain = values * (x.abs().amax(1, keepdim=True) / 127)
    assert relative(plain @ matrix.float().T, x.double() @ matrix.T) > 3 * clean


def test_int8_weights_with_a_bias():
    weight, bias = torch.tensor([[1, -2], [3, 4]], dtype=torch.int8), torch.tensor([0.5, -1.0])
    values, scale = torch.tensor([[5, 6], [-7, 8]], dtype=torch.int8), torch.tensor([2.0, 1.0])
    y = ops.int8_linear(values, scale, bias, weight, torch.tensor([0.5, 0.25]), bias)
    assert torch.equal(y, torch.tensor([[-6.5, 18.5], [-11.0, 1.75]]))


OPS = ['quantize_rows', 'int8_linear', 'packed_int8', 'add_rms_norm_int8', 'add_layer_norm_int8']


@pytest.mark.parametrize('op', OPS)
def test_op_has_a_sound_schema(op):
    stored, _ = random_weight(SCHEMES[2], 8, 128, torch.float32)
    x = draw(3, 128, torch.float32)
    quantized, ones = rows.quantize_rows(x), torch.ones(8)
    arguments = {
        'quantize_rows': (x,),
        'int8_linear': (*quantized, x, torch.ones(8, 128, dtype=torch.int8), ones, ones, 'tanh'),
        'packed_int8': (*quantized, *stored, [4, 4], ones, True),
        'add_rms_norm_int8': (x, x.unsqueeze(0), x[0], 1e-6),
        'add_layer_norm_int8': (x, x, x[0], x[1], 1e-6),
    }
    torch.library.opcheck(getattr(torch.ops.alpamayo_ros, op).default, arguments[op])


def check_rows(dtype, device):
    """Quantized rows and unpacked weights of the kernels against the twins: one level at most."""
    kind = getattr(torch, dtype)
    for columns in COLUMNS:
        x = draw(5, columns + 3, kind).to(device)[:, :columns]
        x[2] = 0
        values, scale = rows.quantize_rows_triton(x)
        want, wanted_scale = rows.quantize_rows_plain(x)
        assert torch.allclose(scale, wanted_scale, rtol=1e-2), columns
        assert (values.int() - want.int()).abs().max() <= 1, columns
        assert (values != want).float().mean() < 0.1, columns
    for scheme in WIDTHS:
        # the last shape: several blocks of rows that lie in several digits, and of columns
        for count, columns in (*((40, columns) for columns in COLUMNS), (72, 18 * 128)):
            stored, matrix = random_weight(scheme, count, columns, kind)
            stored = to(device, stored)
            scales = weights.compute_weight_scales(stored, columns)
            shape = len(matrix) - 4, rows.fill_up(columns)
            out = torch.full((shape[0] + 1, shape[1]), 99, dtype=torch.int8, device=device)
            weights.unpack_int8_into(out[:-1], stored, scales, columns, 3)
            want = weights.unpack_int8_plain(stored, scales, columns, 3, len(matrix) - 1)
            assert (out[:-1].int() - want.int()).abs().max() <= 1, (scheme, columns)
            assert (out[:-1] != want).float().mean() < 0.1, (scheme, columns)
            assert (out[-1] == 99).all(), 'wrote behind the last row'


def norm_arguments(columns, kind, device, terms=1):
    """Inputs of both norms with int8 rows behind them; one row is a NaN, one only zeros."""
    x, weight, bias = draw(6, columns, kind)[:5], draw(1, columns, kind)[0], 0.1
    added = torch.stack([draw(5, columns, kind) for _ in range(terms)])
    added = added.float() if terms > 1 else added  # terms of a product cut along K
    x[1], added[:, 1], x[3, 7] = 0, 0, torch.nan
    moved = [t.to(device) for t in (3 + x, added, weight, bias * draw(1, columns, kind)[0])]
    return moved


def check_norms(dtype, device):
    """Norms that quantize, against the norm and what quantizes rows: two levels at most."""
    kind = getattr(torch, dtype)
    for columns in COLUMNS:
        for terms in (1, 3):
            x, added, weight, bias = norm_arguments(columns, kind, device, terms)
            copy = x.clone()
            got = norms.add_rms_norm_int8_triton(x, added, weight, 1e-6)
            want = norms.add_rms_norm_int8_plain(copy, added, weight, 1e-6)
            compare_rows(got, want, columns)
            assert torch.allclose(x, copy, rtol=1e-2, equal_nan=True)
        x, added, weight, bias = norm_arguments(columns, kind, device)
        total, *got = norms.add_layer_norm_int8_triton(x, added[0], weight, bias, 1e-6)
        wanted_total, *want = norms.add_layer_norm_int8_plain(x, added[0], weight, bias, 1e-6)
        compare_rows(got, want, columns)
        assert torch.allclose(total, wanted_total, rtol=1e-2, equal_nan=True)


def compare_rows(got, want, columns):
    """Levels and scales of rows; the row of a NaN has a scale that says so."""
    (values, scale), (wanted, wanted_scale) = got, want
    assert torch.allclose(scale, wanted_scale, rtol=1e-2, equal_nan=True), columns
    assert wanted_scale.isnan().tolist() == [False, False, False, True, False]
    real = ~wanted_scale.isnan()
    assert (values[real].int() - wanted[real].int()).abs().max() <= 2, columns
    assert (values[real] != wanted[real]).float().mean() < 0.1, columns


def check_products(dtype, device):
    """Kernels, in one piece and in several, against the twins."""
    kind = getattr(torch, dtype)
    limit = {'float32': 1e-6, 'float16': 1e-3, 'bfloat16': 6e-3}[dtype]
    for scheme in WIDTHS[:2]:
        stored, matrix = joined(scheme, kind)
        double, _ = gated(scheme, 150, 256, kind)
        for count in (5, 70):
            x = (0.02 * draw(count, 256, torch.float32)).to(kind)
            quantized = [t.to(device) for t in rows.quantize_rows_plain(x)]
            for packed, heights, gate in (
                (to(device, stored), [60, 20, 40], False),
                (to(device, double), [150, 150], True),
            ):
                parts = packed.split(heights)
                scales = torch.cat([weights.compute_weight_scales(part, 256) for part in parts])
                arguments = [*quantized, packed, heights, scales, gate]
                want = ops.packed_int8_plain(*arguments).double().cpu()
                for scratch in (1 << 20, 256 * 96):
                    ops.SCRATCH_BYTES = scratch
                    error = relative(ops.packed_int8_cuda(*arguments), want)
                    assert error < 5e-3, (scheme, count, heights, scratch, error)
        weight = torch.randint(-127, 128, (70, 384), dtype=torch.int8, device=device)
        x = draw(70, 304, kind).to(device)
        arguments = [*rows.quantize_rows_plain(x), x, weight, 0.01 * torch.rand(70, device=device)]
        for bias, curve in ((None, ''), (x[0, :70], ''), (x[0, :70], 'tanh'), (None, 'erf')):
            want = ops.int8_linear_plain(*arguments, bias, curve).double().cpu()
            assert relative(ops.int8_linear_cuda(*arguments, bias, curve), want) < limit, curve


@pytest.mark.parametrize('check', ['check_rows', 'check_norms', 'check_products'])
def test_kernels_in_the_interpreter(interpreted, check):
    interpreted(f"import test_int8 as t; t.{check}('float32', 'cpu')")


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('check', [check_rows, check_norms, check_products])
@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_kernels_on_the_gpu(check, dtype, monkeypatch):
    monkeypatch.setattr(ops, 'SCRATCH_BYTES', ops.SCRATCH_BYTES)
    check(dtype, 'cuda')


@pytest.fixture(scope='module')
def infer():
    """A function: actions of an engine with these choices, and the engine."""
    found = {}

    def run(**choices):
        if (key := tuple(choices.items())) not in found:
            options = SamplingOptions(greedy=True, max_tokens=4, num_samples=2)
            engine = AlpamayoEngine(golden_scene.MODEL, options=options, **choices)
            found[key] = engine.infer(golden_scene.context(), seed=0).actions, engine
        return found[key]

    return run


@pytest.mark.parametrize('packed', [{}, {'bits': 2, 'recipe': 'mixed'}], ids=['plain', 'packed'])
@pytest.mark.parametrize('choice', [{'activations': 8}, {'kv_bits': 8}], ids=str)
def test_engine_with_int8_is_near_the_one_without(infer, choice, packed):
    wanted, _ = infer(**packed)
    actions, _ = infer(**packed, **choice)
    error = np.abs(actions - wanted).max()
    assert 0 < error < 0.1 * np.abs(wanted).max()


def test_int8_is_for_vision_and_prompt_where_weights_are_packed(infer, monkeypatch):
    _, engine = infer(bits=2, recipe='mixed', activations=8)
    model, seen = engine.model, []
    assert not any(
        isinstance(layer, nn.Linear | QuantLinear) for layer in model.vlm.model.visual.modules()
    )
    original = linear._multiply_int8

    def record(x, *others, **options):
        seen.append(len(x.values))
        return original(x, *others, **options)

    monkeypatch.setattr(linear, '_multiply_int8', record)
    engine.infer(golden_scene.context(), seed=1)
    assert set(seen) == {223}  # tokens of the prompt
