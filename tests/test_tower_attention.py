"""The tower's kernel gives what float32 attention gives, and is used only where it does; a Hopper GPU is needed."""

import pytest
import torch
from torch.nn import functional as F

from interp.model import kernel_trial, tower_attention
from interp.model.key_heads import HOPPER
from interp.model.tower_attention import D_HEAD, STEP, _works, attend_tower, fits_tower

hopper = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == HOPPER
needs_hopper = pytest.mark.skipif(not hopper, reason="needs a Hopper GPU")


def drawn(images, patches, heads, device="cuda", width=D_HEAD):
    """Queries, keys and values [images, heads, patches, width] that lie in memory as a projection leaves them."""
    generator = torch.Generator(device).manual_seed(patches)
    x = torch.randn(3, images, patches, heads, width, generator=generator, device=device).bfloat16()
    return x.transpose(2, 3).unbind()


def by_hand(q, k, v, scale):
    """Softmax attention in float64, [images, patches, heads, width]."""
    q, k, v = (x.double() for x in (q, k, v))
    return (torch.softmax(q @ k.transpose(-1, -2) * scale, -1) @ v).transpose(1, 2)


@needs_hopper
@pytest.mark.parametrize("patches", [64, 128, 192, 256, 320, 1024, 4096])
@pytest.mark.parametrize("sharp", [0.1, 1, 8])
def test_values(patches, sharp):
    q, k, v = drawn(2, patches, 3)
    # Sharp scores make single keys count, and the greatest score move from step to step.
    q = q * sharp
    assert fits_tower(q, None)
    found, expected = attend_tower(q, k, v, D_HEAD**-0.5), by_hand(q, k, v, D_HEAD**-0.5)
    own = (F.scaled_dot_product_attention(q, k, v).transpose(1, 2) - expected).abs().max()
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1.5 * own + 2**-12


@needs_hopper
def test_layouts_and_extremes():
    # One product for queries, keys and values leaves them beside each other; a head's neighbours must not leak in.
    x = torch.randn(2, 128, 3, 4, D_HEAD, device="cuda").bfloat16()
    x[:, :, :, 1] *= 1e4
    q, k, v = (part.transpose(1, 2) for part in x.unbind(2))
    found, expected = attend_tower(q, k, v, D_HEAD**-0.5), by_hand(q, k, v, D_HEAD**-0.5)
    assert (found - expected)[:, :, [0, 2, 3]].abs().max() < 0.02
    assert (found / expected - 1)[:, :, 1].abs().median() < 0.01
    assert found.isfinite().all()
    # Equal scores weigh all values alike.
    same = attend_tower(torch.zeros_like(q), k, v, D_HEAD**-0.5)[:, :, 0]
    assert (same - v[:, 0].double().mean(1, keepdim=True)).abs().max() < 0.01


@needs_hopper
def test_scores_that_outgrow_those_of_the_first_keys():
    # Softmax in float32 with a fixed shift holds weights up to 2^128 times those of the first keys.
    q, k, v = (x.clone() for x in drawn(2, 512, 3))
    q[:, :, :, 0] = 1
    for size in (50, 130, 200, 5000):
        k[:, 1, 300:, 0] = size * D_HEAD**0.5
        k[0, 2, :, 0] = -size * D_HEAD**0.5 * torch.linspace(1, 0, 512, device="cuda")
        found, expected = attend_tower(q, k, v, D_HEAD**-0.5), by_hand(q, k, v, D_HEAD**-0.5)
        own = (F.scaled_dot_product_attention(q, k, v).transpose(1, 2) - expected).abs().max()
        assert (found - expected).abs().max() < 1.5 * own + 2**-12
    q[1, 0, 7] = float("nan")
    assert attend_tower(q, k, v, D_HEAD**-0.5).isnan().nonzero()[:, :3].unique(dim=0).tolist() == [[1, 7, 0]]


@needs_hopper
def test_a_row_does_not_depend_on_the_batch():
    q, k, v = drawn(5, 320, 2)
    whole = attend_tower(q, k, v, D_HEAD**-0.5)
    assert torch.equal(whole[3:4], attend_tower(q[3:4], k[3:4], v[3:4], D_HEAD**-0.5))
    assert torch.equal(whole, attend_tower(q, k, v, D_HEAD**-0.5))


@needs_hopper
def test_the_tower_of_a_model_uses_it():
    from transformers import SiglipVisionConfig, SiglipVisionModel

    from interp.model.attention import IMPLEMENTATION, set_attention

    width = 2 * D_HEAD
    config = SiglipVisionConfig(
        hidden_size=width,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=112,
        patch_size=14,
        vision_use_head=False,
    )
    torch.manual_seed(0)
    tower = SiglipVisionModel(config).cuda().bfloat16().eval().requires_grad_(False)
    pixels = torch.randn(2, 3, 112, 112, device="cuda").bfloat16()
    plain = tower(pixel_values=pixels).last_hidden_state.float()
    exact = tower.float()(pixel_values=pixels.float()).last_hidden_state
    tower.bfloat16()
    inner = type("Inner", (), {"language_model": tower, "vision_tower": tower})
    set_attention(type("Model", (), {"model": inner}))
    assert tower.config._attn_implementation == IMPLEMENTATION
    used = []
    original = tower_attention.attend_tower
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("interp.model.attention.attend_tower", lambda *a: used.append(1) or original(*a))
        own = tower(pixel_values=pixels).last_hidden_state.float()
    assert len(used) == 3
    assert (own - exact).norm() < 1.2 * (plain - exact).norm()


def test_a_kernel_that_fails_or_is_wrong_is_not_used(monkeypatch, capsys):
    monkeypatch.setattr(kernel_trial, "find_spec", lambda name: name)

    def right(q, k, v, scale):
        return F.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2)

    def wrong(q, k, v, scale):
        found = right(q, k, v, scale)
        found[-1, -1, -1, -1] += 0.1
        return found

    def not_a_number(q, k, v, scale):
        return right(q, k, v, scale) * float("nan")

    def fails(q, k, v, scale):
        raise TypeError("warp_specialize() takes 4 arguments")

    def old(q, k, v, scale):
        raise ImportError("no module named gluon")

    cases = (
        (right, None),
        (wrong, "off by 0.1"),
        (not_a_number, "off by nan"),
        (fails, "takes 4 arguments"),
        (old, None),
    )
    for kernel, said in cases:
        monkeypatch.setattr(tower_attention, "attend_tower", kernel)
        _works.cache_clear()
        assert _works(torch.device("cpu")) is (kernel is right)
        shown = capsys.readouterr().err
        assert shown == "" if said is None else said in shown

    def full(q, k, v, scale):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(tower_attention, "attend_tower", full)
    _works.cache_clear()
    with pytest.raises(torch.OutOfMemoryError):
        _works(torch.device("cpu"))
    monkeypatch.setattr(tower_attention, "attend_tower", right)
    assert _works(torch.device("cpu"))
    _works.cache_clear()


def test_a_cpu_keeps_the_attention_of_pytorch():
    query = torch.randn(1, 2, STEP, D_HEAD).bfloat16()
    assert not fits_tower(query, None)
