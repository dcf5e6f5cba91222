"""Fused kernels give the values and gradients of transformers' own modules. Most tests need a GPU with Triton."""

import pytest
import torch

from interp.model.fused import fuse

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def text_model(layers=2):
    """A small language model of random weights, frozen."""
    from transformers import Gemma3TextConfig
    from transformers.models.gemma3.modeling_gemma3 import Gemma3TextModel

    kinds = ["sliding_attention", "full_attention", "sliding_attention"][:layers]
    config = Gemma3TextConfig(
        vocab_size=97, hidden_size=64, intermediate_size=192, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, layer_types=kinds,
    )  # fmt: skip
    torch.manual_seed(0)
    return Gemma3TextModel(config).eval().requires_grad_(False)


def plain_and_fused(width, dtype):
    from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm

    norms = []
    for _ in range(2):
        norm = Gemma3RMSNorm(width).requires_grad_(False)
        torch.nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(0))
        norms.append(norm.to("cuda", dtype))
    fuse(torch.nn.ModuleList([norms[1]]))
    return norms


@needs_gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-8)])
@pytest.mark.parametrize("shape", [(7, 2560), (2, 33, 2560), (3, 5, 8, 256), (2, 3, 128)])
def test_values_and_gradients(shape, dtype, tolerance):
    plain, fused = plain_and_fused(shape[-1], dtype)
    generator = torch.Generator("cuda").manual_seed(1)
    x = torch.randn(shape, generator=generator, device="cuda").to(dtype) * 30
    x[0, 0] = 0
    # Laid out like queries, and like the pooled vision outputs, whose last dimension is strided.
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


def test_a_norm_on_the_cpu_is_unchanged(monkeypatch):
    monkeypatch.setattr("interp.model.fused.find_spec", lambda name: name)
    from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm

    plain, fused = Gemma3RMSNorm(16), Gemma3RMSNorm(16)
    fuse(torch.nn.ModuleList([fused]))
    x = torch.randn(3, 16)
    assert torch.equal(plain(x), fused(x))


def both(plain, fused, tensors, weight_of):
    """Compare outputs and gradients of two functions of the same tensors."""
    found = []
    for run in (plain, fused):
        leaves = [tensor.clone(memory_format=torch.preserve_format).requires_grad_() for tensor in tensors]
        outputs = run(*leaves)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        total = sum((y * weight_of(y)).float().sum() for y in outputs)
        found.append([*outputs, *torch.autograd.grad(total, leaves)])
    return zip(*found, strict=True)


def sloped(y):
    return torch.linspace(-1, 1, y.numel(), device=y.device).reshape(y.shape).to(y.dtype)


def distance(found, expected):
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@needs_gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2**-8)])
@pytest.mark.parametrize("shape", [(1, 1, 10240), (3, 17, 333)])
def test_gated_gelu(shape, dtype, tolerance):
    from interp.model.triton_kernels.gelu import GatedGelu

    generator = torch.Generator("cuda").manual_seed(0)
    gate, up = (torch.randn(shape, generator=generator, device="cuda").to(dtype) * 3 for _ in range(2))

    def plain(gate, up):
        wide = torch.nn.functional.gelu(gate.double(), approximate="tanh") * up.double()
        return wide.to(dtype)

    for expected, found in both(plain, GatedGelu.apply, (gate, up), sloped):
        assert found.dtype == dtype
        assert distance(found, expected) < tolerance


@needs_gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-8)])
@pytest.mark.parametrize(("heads", "width"), [((8, 4), 256), ((4, 1), 256), ((3, 2), 96)])
@pytest.mark.parametrize("rows_alike", [False, True])
def test_norm_and_rotation_of_heads(heads, width, rows_alike, dtype, tolerance):
    from transformers.models.gemma3.modeling_gemma3 import apply_rotary_pos_emb

    from interp.model.triton_kernels.rotary import RotatedHeads

    generator = torch.Generator("cuda").manual_seed(0)
    q, k = (torch.randn(2, 37, n * width, generator=generator, device="cuda").to(dtype) * 5 for n in heads)
    weights = torch.randn(2, width, generator=generator, device="cuda").to(dtype)
    angles = torch.rand(1 if rows_alike else 2, 37, width, generator=generator, device="cuda") * 7
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)

    def separate(q, k):
        apart = [x.unflatten(-1, (-1, width)).transpose(1, 2) for x in (q, k)]
        normed = []
        for x, weight in zip(apart, weights, strict=True):
            wide = x if x.dtype == torch.float64 else x.float()
            y = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6) * (1 + weight.to(wide.dtype))
            normed.append(y.to(x.dtype))
        return apply_rotary_pos_emb(*normed, cos.to(q.dtype), sin.to(q.dtype))

    def together(q, k):
        return RotatedHeads.apply(q, k, *weights, cos, sin, 1e-6)

    exact = both(separate, separate, (q.double(), k.double()), sloped)
    for (truth, _), (theirs, found) in zip(exact, both(separate, together, (q, k), sloped), strict=True):
        assert found.shape == theirs.shape
        assert distance(found, truth) < tolerance
        # bfloat16 is rounded once, not four times.
        assert dtype == torch.float32 or distance(found, truth) < distance(theirs, truth)


@needs_gpu
def test_a_fused_model_equals_the_plain_model():
    model = text_model(3).cuda()
    ids = torch.randint(0, 97, (3, 21), device="cuda")
    expected = model(input_ids=ids).last_hidden_state
    fuse(model)
    changed = [m for m in model.modules() if "forward" in m.__dict__]
    # In each layer itself, four norms, two norms of queries and keys, an attention and an MLP; and the final norm.
    assert len(changed) == 3 * (6 + 3) + 1
    assert distance(model(input_ids=ids).last_hidden_state, expected) < 1e-5


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [2560, 300])
@pytest.mark.parametrize("follows", [True, False])
def test_a_norm_with_the_sum_behind_it_equals_separate_kernels(width, dtype, follows):
    from interp.model.triton_kernels.norm import RmsNorm
    from interp.model.triton_kernels.residual_norm import ResidualNorm

    generator = torch.Generator("cuda").manual_seed(0)
    x, residual = (torch.randn(3, 33, width, generator=generator, device="cuda").to(dtype) * size for size in (3, 30))
    x[1, 2] = 0
    w, next_w = (torch.randn(width, generator=generator, device="cuda").to(dtype) for _ in range(2))

    def separate(x, residual):
        total = residual + RmsNorm.apply(x, w, 1e-6)
        return (total, RmsNorm.apply(total, next_w, 1e-6)) if follows else total

    def together(x, residual):
        total, y = ResidualNorm.apply(x, residual, w, next_w if follows else None, 1e-6)
        return (total, y) if follows else total

    def next_alone(residual):
        return residual, RmsNorm.apply(residual, next_w, 1e-6)

    def next_together(residual):
        return ResidualNorm.apply(None, residual, None, next_w, 1e-6)

    compared = [*both(separate, together, (x, residual), sloped)]
    for expected, found in (*compared, *both(next_alone, next_together, (residual,), sloped)):
        # Between kernels, bfloat16 is rounded in memory; float32 may be kept with more digits within one.
        assert torch.equal(found, expected) if dtype == torch.bfloat16 else distance(found, expected) < 1e-6


@needs_gpu
@pytest.mark.parametrize(
    "name",
    [f"{part}_layernorm" for part in ("input", "post_attention", "pre_feedforward", "post_feedforward")]
    + ["self_attn.q_norm", "self_attn.k_norm"],
)
def test_a_norm_that_is_watched_or_trained_is_still_called(name):
    model = text_model().cuda()
    ids = torch.randint(0, 97, (3, 21), device="cuda")
    norm = model.layers[1].get_submodule(name)
    gradients, seen = [], []
    for fused in (False, True):
        if fused:
            fuse(model)
        handle = norm.register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
        model(input_ids=ids)
        handle.remove()
        norm.weight.requires_grad_()
        last = model(input_ids=ids).last_hidden_state
        gradients += torch.autograd.grad((last * sloped(last)).sum(), norm.weight)
        norm.weight.requires_grad_(False)
    assert distance(*seen) < 1e-5
    assert distance(*gradients) < 1e-4


def test_a_model_on_the_cpu_is_unchanged(monkeypatch):
    monkeypatch.setattr("interp.model.fused.find_spec", lambda name: name)
    model = text_model()
    ids = torch.randint(0, 97, (2, 9))
    expected = model(input_ids=ids).last_hidden_state
    fuse(model)
    assert "forward" in model.layers[0].mlp.__dict__
    assert "forward" in model.layers[1].self_attn.__dict__
    assert torch.equal(model(input_ids=ids).last_hidden_state, expected)


def test_the_layers_of_a_split_model_still_move_their_inputs(monkeypatch):
    monkeypatch.setattr("interp.model.fused.find_spec", lambda name: name)
    from accelerate import dispatch_model

    places = dict.fromkeys(("embed_tokens", "norm", "rotary_emb", "layers.0", "layers.1"), "cpu")
    model = dispatch_model(text_model(), places, main_device="cpu", force_hooks=True)
    moved = []
    for layer in model.layers:
        move = layer._hf_hook.pre_forward
        monkeypatch.setattr(layer._hf_hook, "pre_forward", lambda *a, m=move, **k: moved.append(1) or m(*a, **k))
    fuse(model)
    model(input_ids=torch.randint(0, 97, (1, 5)))
    assert len(moved) == 2


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [1152, 144, 37])
def test_layer_norm_of_a_sum(width, dtype):
    from interp.model.triton_kernels.layer_norm import layer_norm

    generator = torch.Generator("cuda").manual_seed(0)
    x, added = (torch.randn(5, 33, width, generator=generator, device="cuda").to(dtype) * size for size in (30, 3))
    x[1, 2] = 7
    norm = torch.nn.LayerNorm(width, eps=1e-6, device="cuda", dtype=dtype)
    torch.nn.init.normal_(norm.weight, generator=generator)
    torch.nn.init.normal_(norm.bias, generator=generator)
    for given, (total, found) in ((x + added, layer_norm(x, norm, added)), (x, layer_norm(x, norm))):
        assert torch.equal(total, given)
        wide = (given.double(), (width,), norm.weight.double(), norm.bias.double(), norm.eps)
        exact = torch.nn.functional.layer_norm(*wide)
        assert (found.double() - exact).abs().max() <= 1.01 * (norm(given).double() - exact).abs().max() + 2e-6


@needs_gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2**-6)])
def test_a_fused_tower_equals_the_plain_tower(dtype, tolerance):
    from transformers import SiglipVisionConfig, SiglipVisionModel

    sizes = {"hidden_size": 144, "intermediate_size": 432, "num_hidden_layers": 3, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = SiglipVisionModel(SiglipVisionConfig(**sizes, image_size=56, patch_size=14, vision_use_head=False))
    model = model.to("cuda", dtype).eval()
    pixels = torch.randn(3, 3, 56, 56, device="cuda").to(dtype)
    with torch.no_grad():
        expected = model(pixels).last_hidden_state
        fuse(model)
        # In each layer itself and its MLP; and the patch embedding.
        assert sum("forward" in m.__dict__ for m in model.modules()) == 3 * 2 + 1
        assert distance(model(pixels).last_hidden_state, expected) < tolerance
    # If a gradient is needed, here of the pixels, the tower runs transformers' own code.
    leaf = pixels.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf).last_hidden_state.float().sum(), leaf)
    assert gradient.isfinite().all()
    assert gradient.any()
