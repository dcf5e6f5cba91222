"""The fused norm against transformers' own: values and gradients. Needs a GPU with Triton."""

import pytest
import torch

from interp.norm import fuse_norms

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def plain_and_fused(width, dtype):
    from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm

    norms = []
    for _ in range(2):
        norm = Gemma3RMSNorm(width).requires_grad_(False)
        torch.nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(0))
        norms.append(norm.to("cuda", dtype))
    fuse_norms(torch.nn.ModuleList([norms[1]]))
    return norms


@needs_gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-8)])
@pytest.mark.parametrize("shape", [(7, 2560), (2, 33, 2560), (3, 5, 8, 256), (2, 3, 128)])
def test_values_and_gradients(shape, dtype, tolerance):
    plain, fused = plain_and_fused(shape[-1], dtype)
    generator = torch.Generator("cuda").manual_seed(1)
    x = torch.randn(shape, generator=generator, device="cuda").to(dtype) * 30
    x[0, 0] = 0
    # As queries come, and as the pooled vision outputs do, whose last dimension is strided.
    views = [x, x.transpose(-1, -2).contiguous().transpose(-1, -2)]
    if x.dim() > 3:
        views.append(x.transpose(1, 2))
    for view in views:
        outputs = []
        for norm in (plain, fused):
            leaf = view.clone(memory_format=torch.preserve_format).requires_grad_()
            y = norm(leaf)
            weight = torch.linspace(-1, 1, y.numel(), device="cuda").reshape(y.shape).to(dtype)
            (gradient,) = torch.autograd.grad((y * weight).float().sum(), leaf)
            outputs.append((y, gradient))
        for expected, found in zip(*outputs, strict=True):
            assert found.shape == expected.shape
            error = (found.float() - expected.float()).norm() / expected.float().norm()
            assert error < tolerance


def test_a_norm_on_the_cpu_is_left_as_it_is():
    from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm

    plain, fused = Gemma3RMSNorm(16), Gemma3RMSNorm(16)
    fuse_norms(torch.nn.ModuleList([fused]))
    x = torch.randn(3, 16)
    assert torch.equal(plain(x), fused(x))
