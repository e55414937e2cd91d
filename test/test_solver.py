"""Solvers: errors on fixed matrices, exactness where it is possible, importance, pieces."""

import pytest
import torch

from alpamayo_ros.kernels.packing import PackedMatrix, unpack_rows
from alpamayo_ros.quantization import matrix
from alpamayo_ros.quantization.matrix import quantize_matrix
from alpamayo_ros.quantization.scheme import SCHEMES, Rule
from alpamayo_ros.quantization.solver import SOLVERS, solve

WIDTHS = [bits for bits, scheme in SCHEMES.items() if scheme.levels]


def gaussian(rows, columns, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def dense(stored, bits, rows, columns):
    """Return the matrix that stored tensors stand for."""
    data = next(t for name, t in stored.items() if name.endswith('_data'))
    shift = stored['._scale'] if bits == 1.58 else stored.get('._shift')
    levels = SCHEMES[bits].levels
    return unpack_rows(
        PackedMatrix(data, stored['._scale'], shift, levels), columns, torch.arange(rows)
    )


@pytest.mark.parametrize(
    ('solver', 'bits', 'most'),
    [
        ('mse', 2, 0.335),
        ('minmax', 2, 0.505),
        ('hqq', 2, 0.500),
        ('mse', 4, 0.095),
        ('mse', 1.58, 0.435),
        ('mse', 8, 0.009),
    ],
)
def test_relative_error_of_a_gaussian_matrix(solver, bits, most):
    _, error = quantize_matrix(gaussian(128, 4096), Rule('*', bits), solver)
    assert 0.8 * most < error <= most


@pytest.mark.parametrize('bits', WIDTHS)
@pytest.mark.parametrize('solver', SOLVERS)
def test_reported_error_is_that_of_the_stored_matrix(bits, solver):
    weight = gaussian(30, 192)
    stored, error = quantize_matrix(weight, Rule('*', bits), solver, dtype=torch.float32)
    rest = dense(stored, bits, 30, 192) - weight
    assert float(rest.norm() / weight.norm()) == pytest.approx(error, rel=1e-4)


@pytest.mark.parametrize('bits', [4, 2, 1.58])
def test_matrix_on_the_levels_is_stored_exactly(bits):
    codes = torch.randint(0, SCHEMES[bits].levels, (20, 256), generator=torch.manual_seed(0))
    codes[:, ::64], codes[:, 1::64] = 0, SCHEMES[bits].levels - 1  # the whole range is in use
    weight = 0.25 * (codes.to(torch.float32) - 1)
    stored, error = quantize_matrix(weight, Rule('*', bits))
    assert error == 0
    assert torch.equal(dense(stored, bits, 20, 256).to(torch.float32), weight)


@pytest.mark.parametrize('bits', WIDTHS)
def test_pieces_give_the_same_tensors_as_the_whole(bits, monkeypatch):
    weight = gaussian(20, 256)
    whole, _ = quantize_matrix(weight, Rule('*', bits))
    monkeypatch.setattr(matrix, 'PIECE', 3 * 128 * 5)
    parts, _ = quantize_matrix(weight, Rule('*', bits))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize('bits', [4, 2, 1.58])
def test_padding_is_zero_and_changes_no_other_row(bits):
    weight = gaussian(37, 256)
    padded, _ = quantize_matrix(weight, Rule('*', bits, row_multiple=128))
    plain, _ = quantize_matrix(weight, Rule('*', bits))
    got = dense(padded, bits, Rule('*', bits, row_multiple=128).pad(37), 256)
    assert torch.equal(got[:37], dense(plain, bits, 37, 256))
    assert not got[37:].any()


def test_zeros_stay_zeros():
    for bits in WIDTHS:
        stored, error = quantize_matrix(torch.zeros(20, 160), Rule('*', bits))
        assert error == 0
        assert not dense(stored, bits, 20, 160).any()


def test_importance_moves_the_error_to_the_columns_that_count_less():
    weight = gaussian(64, 256)
    importance = torch.ones(256)
    importance[::8] = 100
    rest = {
        name: dense(quantize_matrix(weight, Rule('*', 2), importance=given)[0], 2, 64, 256)
        - weight
        for name, given in (('plain', None), ('weighted', importance))
    }
    assert rest['weighted'][:, ::8].norm() < 0.9 * rest['plain'][:, ::8].norm()
    assert rest['weighted'].norm() > rest['plain'].norm()


def test_codes_fit_the_scale_as_stored_not_as_solved():
    groups = gaussian(64, 128) + 3
    solved = solve(groups, SCHEMES[4])
    scale, shift = solved.scale.to(torch.float32), solved.shift.to(torch.float32)
    best = ((groups + shift) / scale).round().clamp(0, 15)
    assert torch.equal(solved.codes.to(torch.float32), best)
