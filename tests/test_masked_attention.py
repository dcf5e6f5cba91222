"""The language model's own attention kernel gives what float64 attention gives, and is used where it fits."""

import sys
from types import ModuleType

import pytest
import torch

from interp.model import kernel_trial
from interp.model.attention import attend
from interp.model.kernel_trial import agrees
from interp.model.key_heads import HOPPER, MOST_OFF, _difference, fits_masked

hopper = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == HOPPER
needs_hopper = pytest.mark.skipif(not hopper, reason="needs a Hopper GPU")


def drawn(rows, queries, keys, heads, key_heads, width, share=0.6, device="cuda"):
    """Queries, keys and values that lie in memory as a projection leaves them, and a mask with a key for each query."""
    generator = torch.Generator(device).manual_seed(queries)
    q, k, v = (
        torch.randn(rows, n, number, width, generator=generator, device=device).bfloat16().transpose(1, 2)
        for n, number in ((queries, heads), (keys, key_heads), (keys, key_heads))
    )
    seen = torch.rand(rows, 1, queries, keys, generator=generator, device=device) < share
    # The last keys alone, after blocks of none.
    seen[:, :, 0], seen[..., -1] = False, True
    return q, k, v, torch.where(seen, 0.0, -torch.inf).bfloat16()


def by_hand(q, k, v, mask, scale):
    group = q.shape[1] // k.shape[1]
    score = q @ k.repeat_interleave(group, 1).transpose(-1, -2) * scale + mask
    return (score.softmax(-1) @ v.repeat_interleave(group, 1)).transpose(1, 2)


def outcome(run, q, k, v, dtype):
    """Outputs and gradients."""
    leaves = [x.detach().to(dtype).requires_grad_() for x in (q, k, v)]
    out = run(*leaves)
    slope = torch.randn(out.shape, generator=torch.Generator(out.device).manual_seed(1), device=out.device).to(dtype)
    return [out.detach(), *torch.autograd.grad(out, leaves, slope.bfloat16().to(dtype))]


@needs_hopper
@pytest.mark.parametrize(("heads", "key_heads"), [(8, 4), (4, 1)])
@pytest.mark.parametrize(("queries", "keys"), [(64, 64), (304, 304), (100, 431)])
@pytest.mark.parametrize("sharp", [0.3, 3])
def test_values_and_gradients(heads, key_heads, queries, keys, sharp):
    q, k, v, mask = drawn(3, queries, keys, heads, key_heads, 256)
    q = (q * sharp).transpose(1, 2).contiguous().transpose(1, 2)
    assert fits_masked(q, k, v, mask)
    module = torch.nn.Module()
    found = outcome(lambda q, k, v: attend(module, q, k, v, mask, scaling=1 / 16)[0], q, k, v, torch.bfloat16)
    expected = outcome(lambda q, k, v: by_hand(q, k, v, mask.double(), 1 / 16), q, k, v, torch.float64)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.shape == theirs.shape
        assert (mine - theirs).norm() / theirs.norm() < 8e-3
        assert mine.isfinite().all()


@needs_hopper
def test_other_attention_is_pytorch_s():
    q, k, v, mask = drawn(2, 64, 64, 8, 4, 256)
    assert fits_masked(q, k, v, mask)
    assert not fits_masked(q.float(), k.float(), v.float(), mask.float())
    assert not fits_masked(q[:, :, :2], k, v, mask[:, :, :2])
    assert not fits_masked(q[..., :96], k[..., :96], v[..., :96], mask)
    assert not fits_masked(q, k, v, mask == 0)
    assert not fits_masked(q, k, v, mask[:, :, :1])
    assert not fits_masked(q, k, v, mask[:1])


def test_a_cpu_does_not_use_it():
    q, k, v, mask = drawn(1, 64, 64, 8, 4, 256, device="cpu")
    assert not fits_masked(q, k, v, mask)


@pytest.mark.parametrize("broken", [None, "value", "gradient", "no number"])
def test_a_kernel_that_is_wrong_is_not_used(broken, monkeypatch, capsys):
    """The comparison before use, on a CPU with attention by hand in place of the kernel."""

    class Bent(torch.autograd.Function):
        @staticmethod
        def forward(ctx, k):
            return k.clone()

        @staticmethod
        def backward(ctx, slope):
            factor = torch.linspace(1, 1.1, slope.shape[2])[:, None].to(slope.dtype)
            return slope * (factor if broken == "gradient" else torch.nan)

    class Kernel:
        @staticmethod
        def apply(q, k, v, mask, scale):
            k = Bent.apply(k) if broken in ("gradient", "no number") else k
            found = by_hand(q.float(), k.float(), v.float(), mask.float(), scale).transpose(1, 2).bfloat16()
            return found * 1.05 if broken == "value" else found

    module = ModuleType("interp.model.triton_kernels.masked_attention")
    module.MaskedAttention = Kernel
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(kernel_trial, "find_spec", lambda name: name)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        off = _difference(torch.device("cpu"), 64, learns=True)
        forward = _difference(torch.device("cpu"), 64, learns=False)
    assert (off < MOST_OFF / 2) == (broken is None)
    # Where no gradient is asked for, none is compared.
    assert (forward < MOST_OFF / 2) == (broken != "value")
    assert agrees("the language model", lambda: off, MOST_OFF) == (broken is None)
    assert ("the language model uses PyTorch's attention" in capsys.readouterr().err) == (broken is not None)


@needs_hopper
def test_the_kernel_agrees_here_by_a_margin():
    for width in (64, 128, 256):
        assert _difference(torch.device("cuda"), width, learns=True) < MOST_OFF / 2
