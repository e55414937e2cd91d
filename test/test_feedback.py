"""Error feedback: without correlated inputs the best fit alone, with them better outputs."""

import pytest
import torch

from alpamayo_ros.kernels.packing import PackedMatrix, unpack_rows
from alpamayo_ros.quantization.feedback import quantize_with_feedback
from alpamayo_ros.quantization.matrix import quantize_matrix
from alpamayo_ros.quantization.scheme import SCHEMES, Rule

WIDTHS = [bits for bits, scheme in SCHEMES.items() if scheme.levels]


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def moments_of(columns, samples=2000):
    """Return second moments of inputs of which neighbours are alike, and some are large."""
    x = random(samples, columns).cumsum(1) / torch.arange(1, columns + 1) ** 0.5
    x *= torch.rand(columns, generator=torch.Generator().manual_seed(1)) * 2
    return x.T @ x / samples


def dense(stored, rule, rows, columns):
    data = next(t for name, t in stored.items() if name.endswith('_data'))
    shift = stored['._scale'] if rule.bits == 1.58 else stored.get('._shift')
    levels = rule.scheme.levels
    return unpack_rows(
        PackedMatrix(data, stored['._scale'], shift, levels), columns, torch.arange(rows)
    )


@pytest.mark.parametrize('bits', WIDTHS)
def test_feedback_without_correlation_is_the_best_fit_alone(bits):
    weight, rule = random(30, 192), Rule('*', bits, row_multiple=8)
    want, error = quantize_matrix(weight, rule)
    got, own = quantize_with_feedback(weight, rule, torch.eye(192))
    assert got.keys() == want.keys()
    assert all(got[name].dtype == want[name].dtype for name in want)
    difference = dense(got, rule, 32, 192).float() - dense(want, rule, 32, 192).float()
    assert difference.abs().max() < 1e-6
    assert own == pytest.approx(error, rel=1e-4)


@pytest.mark.parametrize(('bits', 'most'), [(8, 0.5), (4, 0.5), (2, 0.5), (1.58, 0.5)])
def test_feedback_lowers_the_error_of_outputs(bits, most):
    weight, rule, moments = random(64, 192), Rule('*', bits), moments_of(192)

    def output_error(stored):
        rest = dense(stored, rule, 64, 192).float() - weight
        return float(torch.trace(rest @ moments @ rest.T))

    plain, _ = quantize_matrix(weight, rule)
    answered, error = quantize_with_feedback(weight, rule, moments)
    assert output_error(answered) < most * output_error(plain)
    rest = dense(answered, rule, 64, 192).float() - weight
    assert float(rest.norm() / weight.norm()) == pytest.approx(error, rel=0.03)


def test_rows_that_are_solved_in_pieces_are_the_same(monkeypatch):
    weight, rule, moments = random(30, 192), Rule('*', 2, row_multiple=8), moments_of(192)
    want, error = quantize_with_feedback(weight, rule, moments)
    monkeypatch.setattr('alpamayo_ros.quantization.feedback.PIECE', 7 * 192)
    got, own = quantize_with_feedback(weight, rule, moments)
    assert own == pytest.approx(error)
    assert all(torch.equal(got[name], want[name]) for name in want)
