"""Kernels for a CPU give the values and gradients of transformers' own modules."""

import pytest
import torch
from random_weights import draw_norms

from interp.model.cpu_kernels import ROWS, padded_rows, product, use_cpu_kernels


def language_model():
    from transformers import Gemma3TextConfig
    from transformers.models.gemma3.modeling_gemma3 import Gemma3TextModel

    config = Gemma3TextConfig(
        vocab_size=97, hidden_size=64, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, layer_types=["sliding_attention", "full_attention"],
    )  # fmt: skip
    torch.manual_seed(0)
    model = Gemma3TextModel(config).eval().requires_grad_(False)
    draw_norms(model)
    return model


def outputs_and_gradients(model, embedded):
    """The last hidden state of inputs [B, S, d], without and with gradients, and the gradient of a weighted sum."""
    leaf = embedded.clone().requires_grad_()
    recorded = model(inputs_embeds=leaf).last_hidden_state
    (gradient,) = torch.autograd.grad((recorded * torch.linspace(-1, 1, recorded.shape[-1])).sum(), leaf)
    with torch.no_grad():
        return model(inputs_embeds=embedded).last_hidden_state, recorded.detach(), gradient


# Numbers of rows that are padded, and one that is not.
@pytest.mark.parametrize("shape", [(3, 5), (2, ROWS), (3, 67), (5, 431)])
def test_a_model_gives_the_same_values_and_gradients(shape):
    model = language_model()
    embedded = torch.randn(*shape, 64)
    expected = outputs_and_gradients(model, embedded)
    use_cpu_kernels(model)
    changed = [module for module in model.modules() if "forward" in module.__dict__]
    # In each layer seven products, six norms and an activation, and the final norm.
    assert len(changed) == 2 * (7 + 6 + 1) + 1
    for found, wanted in zip(outputs_and_gradients(model, embedded), expected, strict=True):
        assert (found - wanted).norm() < 1e-5 * wanted.norm()


def derivatives(module, x):
    """Derivatives of sum(y^3) of a module, of the kinds that libraries take: reverse, second order, torch.func, jvp."""
    from torch.autograd import forward_ad

    def cubed(x):
        return (module(x) ** 3).sum()

    leaf = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(cubed(leaf), leaf, create_graph=True)
    (second,) = torch.autograd.grad((first**2).sum(), leaf)
    with forward_ad.dual_level():
        along = forward_ad.unpack_dual(cubed(forward_ad.make_dual(x, torch.ones_like(x)))).tangent
    return first.detach(), second, torch.func.grad(cubed)(x), torch.func.jvp(cubed, (x,), (x,))[1], along


def test_derivatives_of_every_kind_stay_those_of_the_plain_module():
    torch.manual_seed(0)
    module = torch.nn.Linear(24, 16).requires_grad_(False)
    x = torch.randn(5, 24)
    expected = derivatives(module, x)
    assert all(each.norm() > 0.1 for each in expected)
    use_cpu_kernels(module)
    assert "forward" in module.__dict__
    for found, wanted in zip(derivatives(module, x), expected, strict=True):
        assert (found - wanted).norm() < 1e-5 * wanted.norm()


def test_gelu_is_more_exact_than_torch_and_has_the_same_limits():
    from transformers.activations import GELUTanh

    module, x = GELUTanh(), torch.cat([torch.linspace(-12, 12, 2001), torch.tensor([-1e30, 1e30])])
    exact, theirs = module(x.double()), module(x)
    use_cpu_kernels(module)
    found = module(x)
    assert (found - exact).abs().max() < 2 * (theirs - exact).abs().max()
    assert ((found - exact).abs() / exact.abs().clamp_min(1e-3)).max() < 2e-6
    assert found[-2:].tolist() == exact[-2:].float().tolist()


def test_a_tower_gives_the_same_values():
    from transformers import SiglipVisionConfig, SiglipVisionModel

    sizes = {"hidden_size": 144, "intermediate_size": 432, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = SiglipVisionModel(SiglipVisionConfig(**sizes, image_size=56, patch_size=14, vision_use_head=False))
    model.eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    pixels = torch.randn(9, 3, 56, 56)
    with torch.no_grad():
        expected = model(pixels).last_hidden_state
        use_cpu_kernels(model)
        found = model(pixels).last_hidden_state
    assert (found - expected).norm() < 1e-5 * expected.norm()


def test_a_product_is_as_exact_as_torch():
    x, weight, bias = torch.randn(2, 300, 40), torch.randn(24, 40), torch.randn(24)
    exact, theirs = (
        torch.nn.functional.linear(*(t.to(kind) for t in (x, weight, bias))) for kind in (torch.float64, torch.float32)
    )
    found = product(x, weight, bias)
    assert found.is_contiguous()
    assert (found - exact).abs().max() < 2 * (theirs - exact).abs().max()


@pytest.mark.parametrize(("k", "n"), [(40, 24), (96, 192), (128, 64), (640, 256)])
def test_a_row_has_the_same_bits_whatever_is_beside_it(k, n):
    x, weight = torch.randn(1500, k), torch.randn(n, k)
    whole = product(x, weight)
    for rows in (1, 2, 3, 7, 33, 100, 127, 128, 129, 300, 1025):
        assert torch.equal(product(x[:rows], weight), whole[:rows])
        assert rows <= padded_rows(rows) < 2 * rows + 1
    assert len({padded_rows(rows) for rows in range(1, 2049)}) <= 7 + 16


def test_trained_weights_get_their_gradient():
    model, trained = language_model(), torch.randn(2, 100, 64)
    use_cpu_kernels(model)
    layer = model.layers[1].mlp
    layer.requires_grad_(True)
    model(inputs_embeds=trained).last_hidden_state.square().sum().backward()
    assert all(parameter.grad.any() for parameter in layer.parameters())


def test_an_adapter_that_is_off_leaves_every_bit():
    from peft import LoraConfig, get_peft_model

    model, embedded = language_model(), torch.randn(2, 100, 64)
    use_cpu_kernels(model)
    with torch.no_grad():
        expected = model(inputs_embeds=embedded).last_hidden_state
        adapted = get_peft_model(model, LoraConfig(target_modules=["gate_proj"], r=2, init_lora_weights=False))
        assert not torch.allclose(adapted(inputs_embeds=embedded).last_hidden_state, expected, atol=1e-2)
        with adapted.disable_adapter():
            assert torch.equal(adapted(inputs_embeds=embedded).last_hidden_state, expected)


def test_bfloat16_is_left_to_transformers():
    model = language_model().bfloat16()
    embedded = torch.randn(2, 100, 64).bfloat16()
    with torch.no_grad():
        expected = model(inputs_embeds=embedded).last_hidden_state
        use_cpu_kernels(model)
        assert torch.equal(model(inputs_embeds=embedded).last_hidden_state, expected)
