"""Split attention against the plain one: in Triton's interpreter, and on a GPU if there is one."""

import pytest
import torch

from alpamayo_ros.kernels.attention import attend, attend_causal, attend_plain

# (batch, heads, kv heads, queries, keys, head_dim, mask dimensions)
CASES = [
    (1, 4, 2, 1, 300, 32, 0),
    (1, 8, 2, 3, 515, 64, 2),
    (2, 4, 4, 24, 130, 16, 4),
    (1, 2, 1, 64, 700, 128, 4),
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


def test_op_on_a_cpu_is_the_plain_one():
    arguments = inputs(CASES[1], torch.float32)
    assert torch.equal(attend(*arguments), attend_plain(*arguments))


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


@pytest.mark.parametrize('dtype', ['float32', 'float16'])
def test_split_kernel_in_the_interpreter_equals_the_softmax(interpreted, dtype):
    interpreted(f'import test_attention as t; t.check_interpreted({dtype!r})')


def check_interpreted(dtype):
    from alpamayo_ros.kernels.attention import attend_split

    for case in CASES:
        arguments = inputs(case, getattr(torch, dtype))
        error = (attend_split(*arguments).double() - reference(*arguments)).abs().max()
        assert error < {'float32': 1e-5, 'float16': 4e-3}[dtype], (case, float(error))


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
