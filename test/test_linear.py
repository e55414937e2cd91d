"""Packed modules: names and shapes of their tensors, and the same results as dense weights."""

import pytest
import torch
from torch import nn

from alpamayo_ros.kernels import packed_ops
from alpamayo_ros.kernels.packing import unpack_rows
from alpamayo_ros.quantization.embedding import HostEmbedding, QuantEmbedding
from alpamayo_ros.quantization.linear import (
    QuantLinear,
    RowParts,
    join,
    replace_linears,
)
from alpamayo_ros.quantization.matrix import quantize_matrix
from alpamayo_ros.quantization.scheme import SCHEMES, Rule

WIDTHS = [bits for bits, scheme in SCHEMES.items() if scheme.levels]
# the release's odd ones, cut short: K of whole-row groups, of groups of 96, and an odd height
SHAPES = [(64, 256), (64, 4304), (32, 8256), (37, 256), (2, 64)]


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def fill(module, stored):
    """Put stored tensors into a packed module, by their names."""
    module.load_state_dict({'weight' + name: t for name, t in stored.items()}, strict=False)
    return module


def dense(weight):
    """Return the matrix (rows, columns) of a PackedWeight."""
    return unpack_rows(weight.stored, weight.columns, torch.arange(weight.rows))


def packed(shape, rule, bias=False):
    layer = nn.Linear(shape[1], shape[0], bias=bias)
    stored, _ = quantize_matrix(random(*shape), rule, 'minmax', dtype=torch.float32)
    return fill(QuantLinear(layer, rule), stored)


@pytest.mark.parametrize('bits', WIDTHS)
@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_layer_equals_the_product_with_its_dense_matrix(shape, bits):
    layer = packed(shape, Rule('*', bits), bias=True)
    x = random(3, 5, shape[1], seed=1)
    want = x @ dense(layer.weight)[: shape[0]].t() + layer.bias
    assert torch.allclose(layer(x), want, atol=1e-4 * shape[1] ** 0.5)


@pytest.mark.parametrize('bits', WIDTHS)
def test_padded_rows_are_not_in_the_output(bits):
    rule = Rule('*', bits, row_multiple=128)
    layer = packed((37, 256), rule)
    assert layer.weight.rows == rule.pad(37) > 37
    assert layer(random(4, 256)).shape == (4, 37)


@pytest.mark.parametrize('bits', WIDTHS)
def test_embedding_looks_up_rows_of_its_dense_matrix(bits):
    rule = Rule('*', bits, row_multiple=128)
    stored, _ = quantize_matrix(random(50, 256), rule, 'minmax', dtype=torch.float32)
    table = fill(QuantEmbedding(nn.Embedding(50, 256), rule), stored)
    ids = torch.tensor([[0, 49, 7], [7, 1, 0]])
    assert torch.equal(table(ids), dense(table.weight)[ids])


def test_embedding_on_the_host_is_an_embedding():
    plain = nn.Embedding(20, 8)
    host = HostEmbedding(20, 8)
    host.weight = plain.weight
    ids = torch.tensor([3, 19, 3])
    assert torch.equal(host(ids), plain(ids))


def test_names_are_those_of_quanto():
    with torch.device('meta'):
        model = nn.ModuleDict({'a': nn.Linear(256, 64), 'b': nn.Linear(256, 64, bias=False)})
    assert replace_linears(model, (Rule('a', 2), Rule('b', 8))) == ['a', 'b']
    shapes = {name: (tuple(t.shape), t.dtype) for name, t in model.state_dict().items()}
    assert shapes == {
        'a.weight._data._data': ((32, 128), torch.uint8),
        'a.weight._scale': ((128, 1), torch.float32),
        'a.weight._shift': ((128, 1), torch.float32),
        'a.bias': ((64,), torch.float32),
        'b.weight._data': ((64, 256), torch.int8),
        'b.weight._scale': ((64, 1), torch.float32),
    }


def test_rules_choose_what_is_swapped():
    with torch.device('meta'):
        model = nn.ModuleDict(
            {'kept': nn.Linear(64, 64), 'table': nn.Embedding(9, 64), 'norm': nn.LayerNorm(64)}
        )
    assert replace_linears(model, (Rule('kept', 16), Rule('*', 4))) == ['table']
    assert isinstance(model['kept'], nn.Linear)
    assert isinstance(model['table'], QuantEmbedding)


@pytest.mark.parametrize('bits', WIDTHS)
def test_pieces_of_the_scratch_give_the_same_product(bits, monkeypatch):
    layer, x = packed((70, 256), Rule('*', bits)), random(2, 256)
    whole = layer(x)
    monkeypatch.setattr(packed_ops, 'SCRATCH_BYTES', 16 * 256 * 4)
    assert torch.allclose(layer(x), whole, atol=1e-5)


@pytest.mark.parametrize('bits', WIDTHS)
def test_joined_layers_give_the_outputs_of_each(bits):
    rule = Rule('*', bits)
    layers = [packed((rows, 256), rule) for rows in (60, 20, 20)]
    x = random(3, 256, seed=2)
    want = [layer(x) for layer in layers]
    assert join(layers)
    for got, alone, layer in zip(layers[0].joint(x), want, layers, strict=True):
        assert torch.allclose(got, alone, atol=1e-5)
        assert torch.allclose(layer(x), alone, atol=1e-5)


@pytest.mark.parametrize('op', ['packed_linear', 'packed_embedding'])
def test_ops_are_well_formed(op):
    """Schema, fake tensors and the way through torch.compile agree with the op."""
    stored, _ = quantize_matrix(random(20, 64), Rule('*', 2), 'minmax', dtype=torch.float32)
    weight = fill(QuantLinear(nn.Linear(64, 20, bias=False), Rule('*', 2)), stored).weight
    if op == 'packed_linear':
        arguments = (random(3, 64), *weight.stored, [20])
    else:
        arguments = (torch.tensor([1, 2]), *weight.stored, 64)
    tests = ('test_schema', 'test_faketensor')
    torch.library.opcheck(getattr(packed_ops, op), arguments, test_utils=tests)


@pytest.mark.parametrize('bits', WIDTHS)
def test_joined_weights_share_one_memory(bits):
    layers = [packed((rows, 256), Rule('*', bits)) for rows in (60, 20, 20)]
    assert join(layers)
    for index in range(2):  # data and scales
        joint = layers[0].joint.stored[index].untyped_storage().data_ptr()
        own = {layer.weight.stored[index].untyped_storage().data_ptr() for layer in layers}
        assert own == {joint}


def test_casting_ends_the_sharing_and_keeps_the_results():
    layers = [packed((rows, 256), Rule('*', 2)) for rows in (60, 20, 20)]
    assert join(layers)
    x = random(3, 256)
    want = layers[0](x)
    cast = nn.ModuleList(layers).to(torch.float64)
    assert cast[0].joint is None
    assert torch.allclose(cast[0](x.double()), want.double(), atol=1e-4)


@pytest.mark.parametrize('bits', [16, 8])
def test_head_in_parts_is_the_whole_head(bits):
    rule = Rule('*', bits)
    whole = nn.Linear(256, 37, bias=False) if bits == 16 else packed((37, 256), rule)
    parts = RowParts(whole, 3, rule)
    state = {
        f'{i}.{name}': rows
        for name, tensor in whole.state_dict().items()
        for i, rows in enumerate(tensor.split(parts.rows))
    }
    parts.load_state_dict(state)
    assert [len(t) for name, t in state.items() if 'scale' not in name] == [13, 13, 11]
    x = random(4, 256)
    assert torch.allclose(parts(x), whole(x), atol=1e-5)
