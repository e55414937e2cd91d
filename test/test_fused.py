"""Fused layer kernels against their plain twins: in Triton's interpreter, and on a GPU."""

import pytest
import torch

from alpamayo_ros.kernels import kv_cache, norm, rotary, swiglu

DTYPES = {'float32': 2e-6, 'float16': 2e-3, 'bfloat16': 2e-2}  # relative to the largest value


def draw(generator, *shape):
    return torch.randn(shape, generator=generator)


def norm_case(generator):
    x, weight = draw(generator, 3, 5, 96), draw(generator, 96)
    return norm.rms_norm, norm.rms_norm_plain, norm.rms_norm_triton, [x, weight, 1e-6], []


def add_norm_case(generator, terms=1):
    x = draw(generator, 3, 5, 96)[:, -1:]  # the last of 5 tokens
    arguments = [x, draw(generator, terms, 3, 1, 96), draw(generator, 96), 1e-6]
    names = norm.add_rms_norm, norm.add_rms_norm_plain, norm.add_rms_norm_triton
    return *names, arguments, [0]


def add_terms_case(generator):
    return add_norm_case(generator, 3)


def swiglu_case(generator):
    gate, up = (3 * draw(generator, 7, 1300)).split([600, 700], -1)  # as a joined product has them
    gate, up = gate[:, :600], up[:, :600]
    return swiglu.swiglu, swiglu.swiglu_plain, swiglu.swiglu_triton, [gate, up], []


def rotate_case(generator):
    batch, length, heads, kv_heads, dim = 2, 3, 6, 2, 16
    joined = draw(generator, batch, length, (heads + 2 * kv_heads) * dim)
    q, k, v = joined.split([heads * dim, kv_heads * dim, kv_heads * dim], -1)
    weights = [draw(generator, dim) for _ in range(2)]
    angle = draw(generator, batch, 1, length, dim // 2).repeat(1, 1, 1, 2)
    cache = [torch.zeros(batch, kv_heads, 11, dim) for _ in range(2)]
    slots = torch.tensor([4, 9, 2])
    angles = angle.cos(), angle.sin()
    arguments = [q, k, v, *weights, 1e-6, *angles, *cache, slots, None, None]
    names = (
        kv_cache.rotate_into_cache,
        kv_cache.rotate_into_cache_plain,
        kv_cache.rotate_into_cache_triton,
    )
    return *names, arguments, [8, 9]


def rotate_int8_case(generator):
    *names, arguments, _ = rotate_case(generator)
    keys, values = (torch.zeros(2, 2, 11, 16, dtype=torch.int8) for _ in range(2))
    scales = [torch.zeros(2, 2, 11) for _ in range(2)]
    arguments[8:10], arguments[11:] = [keys, values], scales
    return *names, arguments, [8, 9, 11, 12]


def heads_case(generator):
    qkv = draw(generator, 2, 5, 3 * 3, 12)  # heads of query, key and value of 2 images
    angle = draw(generator, 5, 6).repeat(1, 2)
    names = rotary.rotate_heads, rotary.rotate_heads_plain, rotary.rotate_heads_triton
    return *names, [qkv[:, :, :6], angle.cos(), angle.sin()], []


def add_layer_norm_case(generator):
    x, y, weight, bias = (
        draw(generator, *shape) for shape in ((2, 5, 90), (2, 5, 90), (90,), (90,))
    )
    names = (
        norm.add_layer_norm,
        norm.add_layer_norm_plain,
        norm.add_layer_norm_triton,
    )
    return *names, [3 + x, y, weight, bias, 1e-6], []


CASES = [
    norm_case,
    add_norm_case,
    add_terms_case,
    swiglu_case,
    rotate_case,
    rotate_int8_case,
    heads_case,
    add_layer_norm_case,
]


def run(function, arguments, written, dtype, device='cpu'):
    """Result and written tensors of one call, on copies of the arguments."""
    copies = []
    for value in arguments:
        if isinstance(value, torch.Tensor):
            kind = dtype if value.is_floating_point() else value.dtype
            own = torch.empty_strided(value.shape, value.stride(), dtype=kind, device=device)
            value = own.copy_(value)
        copies.append(value)
    found = function(*copies)
    return [*(found if isinstance(found, tuple) else [found]), *(copies[i] for i in written)]


def compare(case, fast, dtype, device='cpu'):
    """Largest difference between a path and the plain one, relative to the largest value."""
    op, plain, in_triton, arguments, written = case(torch.Generator().manual_seed(0))
    function = {'op': op, 'triton': in_triton}[fast]
    want = run(plain, arguments, written, getattr(torch, dtype))
    got = run(function, arguments, written, getattr(torch, dtype), device)
    return max(
        float((g.cpu().double() - w.double()).abs().max() / w.double().abs().max())
        for g, w in zip(got, want, strict=True)
    )


def test_rms_norm_is_unit_power_times_the_weight():
    x = torch.tensor([[3.0, 4.0, 0.0, 0.0]])
    out = norm.rms_norm(x, torch.tensor([1.0, 2.0, 1.0, 1.0]), 0.0)
    assert torch.allclose(out, torch.tensor([[1.2, 3.2, 0.0, 0.0]]))


def test_swiglu_of_known_values():
    out = swiglu.swiglu(torch.tensor([0.0, 1.0]), torch.tensor([5.0, 2.0]))
    assert torch.allclose(out, torch.tensor([0.0, 2 / (1 + torch.e**-1)]))


def test_keys_and_values_land_in_their_slots_and_nowhere_else():
    *_, arguments, written = rotate_case(torch.Generator().manual_seed(0))
    _, keys, values = run(kv_cache.rotate_into_cache, arguments, written, torch.float32)
    used = torch.zeros(11, dtype=torch.bool)
    used[[4, 9, 2]] = True
    for cache in (keys, values):
        assert (cache[:, :, used].abs().sum(-1) > 0).all()
        assert (cache[:, :, ~used] == 0).all()
    want = arguments[2][1, 1].view(2, 16)  # scene 1, token 1 goes to slot 9, not turned
    assert torch.equal(values[1, :, 9], want)


def test_int8_keys_and_values_are_those_of_the_cache_without():
    *_, arguments, written = rotate_case(torch.Generator().manual_seed(0))
    _, *wanted = run(kv_cache.rotate_into_cache, arguments, written, torch.float32)
    *_, arguments, written = rotate_int8_case(torch.Generator().manual_seed(0))
    arguments[2][1, 1, :16] = 0  # a value of zeros in slot 9
    wanted[1][1, 0, 9] = 0
    _, keys, values, *scales = run(kv_cache.rotate_into_cache, arguments, written, torch.float32)
    for want, levels, scale in zip(wanted, (keys, values), scales, strict=True):
        assert set(levels.abs().amax(-1).unique().tolist()) == {0, 127}
        error = (levels * scale.unsqueeze(-1) - want).abs()
        assert (error <= 0.5001 * scale.unsqueeze(-1)).all()


def test_a_nan_reaches_the_scale_of_an_int8_value():
    *_, arguments, written = rotate_int8_case(torch.Generator().manual_seed(0))
    arguments[2][1, 1, 3] = torch.nan
    *_, key_scales, value_scales = run(
        kv_cache.rotate_into_cache, arguments, written, torch.float32
    )
    assert value_scales.isnan().nonzero().tolist() == [[1, 0, 9]]
    assert not key_scales.isnan().any()


def test_no_op_has_a_default_for_what_it_writes_to():
    """Torch 2.11 strips trailing defaults, and then fails to find the argument: only on a GPU."""
    from alpamayo_ros.kernels import packed_ops  # noqa: F401
    from alpamayo_ros.kernels.attention import ops as attention_ops  # noqa: F401
    from alpamayo_ros.kernels.int8 import ops as int8_ops  # noqa: F401

    schemas = [s for s in torch._C._jit_get_all_schemas() if s.name.startswith('alpamayo_ros::')]
    written = {
        (schema.name, argument.name): argument.has_default_value()
        for schema in schemas
        for argument in schema.arguments
        if argument.alias_info is not None and argument.alias_info.is_write
    }
    assert written == dict.fromkeys(written, False)
    assert ('alpamayo_ros::rotate_into_cache', 'key_scales') in written


def test_rotation_keeps_the_length_of_a_head():
    *_, arguments, written = rotate_case(torch.Generator().manual_seed(0))
    arguments[3] = torch.ones(16)
    q = run(kv_cache.rotate_into_cache, arguments, written, torch.float32)[0]
    assert torch.allclose(q.norm(dim=-1), torch.full(q.shape[:-1], 4.0), atol=1e-4)


def test_gradient_of_rotated_heads_is_that_of_torch():
    *_, (x, cos, sin), _ = heads_case(torch.Generator().manual_seed(0))
    weight = draw(torch.Generator().manual_seed(1), *x.shape)
    found = []
    for function in (rotary.rotate_heads, rotary.rotate_heads_plain):
        leaf = x.clone().requires_grad_()
        (function(leaf, cos, sin) * weight).sum().backward()
        found.append(leaf.grad)
    assert torch.allclose(*found, atol=1e-6)


@pytest.mark.parametrize('dtype', ['float32', 'float16'])
def test_kernels_in_the_interpreter_equal_the_plain_ones(interpreted, dtype):
    interpreted(f'import test_fused as t; t.check_interpreted({dtype!r})')


def check_interpreted(dtype):
    for case in CASES:
        error = compare(case, 'triton', dtype)
        assert error <= DTYPES[dtype], (case, error)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('dtype', list(DTYPES))
@pytest.mark.parametrize('case', CASES)
def test_kernels_on_the_gpu_equal_the_plain_ones(case, dtype):
    assert compare(case, 'op', dtype, 'cuda') <= DTYPES[dtype]
