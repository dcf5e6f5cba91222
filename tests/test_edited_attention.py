"""Attention of edited tokens: that of one softmax over the cached keys and each token's own, computed by hand."""

import pytest
import torch

from interp.model.decoder import additive
from interp.model.edited_attention import WithOwn, attend_edited

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]
SCALE = 0.3


def case(device, key_heads, cached):
    """Random queries of 6 edited tokens of 2 prompts, keys, values, and which cached keys are visible."""
    torch.manual_seed(cached)
    sizes = ((4, 6), (key_heads, cached), (key_heads, 6), (key_heads, cached), (key_heads, 6))
    query, past, own, past_value, own_value = (torch.randn(2, *size, 16, device=device) for size in sizes)
    visible = torch.rand(2, 1, 1, cached, device=device) < 0.5
    visible[..., 0] = True
    return query, WithOwn(past, own), WithOwn(past_value, own_value), visible


def by_hand(query, key, value, visible):
    """Outputs of one token after the other, in double precision."""
    found = torch.zeros(2, 6, 4, 16, dtype=torch.double, device=query.device)
    for row, token, head in torch.cartesian_prod(*map(torch.arange, (2, 6, 4))).tolist():
        shared = head * key.own.shape[1] // 4
        seen = visible[row, 0, 0]
        keys, values = (
            torch.cat([x.past[row, shared][seen], x.own[row, shared, token, None]]).double() for x in (key, value)
        )
        weights = (keys @ query[row, head, token].double() * SCALE).softmax(0)
        found[row, token, head] = weights @ values
    return found


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("key_heads", [1, 2, 4])
@pytest.mark.parametrize("cached", [8, 40, 296])
def test_one_softmax_over_cached_keys_and_its_own(device, key_heads, cached):
    query, key, value, visible = case(device, key_heads, cached)
    with torch.no_grad():
        found = attend_edited(query, key, value, additive(visible, torch.float32), SCALE)
    assert found.cpu().double() == pytest.approx(by_hand(query, key, value, visible).cpu(), abs=2e-6)


@pytest.mark.parametrize("device", DEVICES)
def test_gradients_reach_query_key_and_value(device):
    query, key, value, visible = case(device, 2, 24)
    given = (query, key.own, value.own)
    weight = torch.randn(2, 6, 4, 16, device=device)
    for tensor in given:
        tensor.requires_grad_()
    found = attend_edited(query, key, value, additive(visible, torch.float32), SCALE)
    gradients = torch.autograd.grad((found * weight).sum(), given)
    expected = torch.autograd.grad((by_hand(query, key, value, visible) * weight).sum(), given)
    for one, other in zip(gradients, expected, strict=True):
        assert one.cpu() == pytest.approx(other.cpu(), abs=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_a_large_score_of_its_own_key_takes_all(device):
    query, key, value, visible = case(device, 4, 16)
    key = key._replace(own=1e4 * query)
    with torch.no_grad():
        found = attend_edited(query, key, value, additive(visible, torch.float32), SCALE)
    assert torch.equal(found, value.own.transpose(1, 2))
