"""The place of a feature, from its causal test and the layers that write."""

import pytest

from interp.profile.places import place_of, writing_layers
from interp.schemas.record import Interval
from interp.schemas.tested_features import FAMILY_MEDIATED, CausalEntry
from interp.search.gate import gate_span


def causal(net: float, mediated: float, p: float = 0.01) -> CausalEntry:
    """A test whose estimates have intervals of ± .05."""
    total, part = (Interval(value=x, low=x - 0.05, high=x + 0.05) for x in (net, mediated))
    controls = {"random": 0.0, "matched": 0.0, "swapped": 0.0, "p_random": p, "random_reversals": 0.0}
    return CausalEntry(
        n=20, recovery=total, net=total, mediated=part, net_mediated=part, random_mediated=0.0, p=p,
        direct=Interval(value=net - mediated, low=None, high=None),
        p_mediated=p, reversals=1, unflipped_changed=0.0, dose=[0.0] * 4, **controls,
    )  # fmt: skip


def writes(values: dict[int, float]) -> dict[int, Interval]:
    """Direct effects with intervals of ± .05."""
    return {layer: Interval(value=w, low=w - 0.05, high=w + 0.05) for layer, w in values.items()}


def test_layers_write_whose_direct_effect_is_above_chance_and_near_the_largest():
    assert writing_layers(writes({3: 0.04, 4: 0.5, 5: 0.2, 6: 0.06, 7: -0.4})) == [4, 5]
    assert writing_layers(writes({3: 0.01, 4: -0.2})) == []


@pytest.mark.parametrize(
    ("layer", "net", "mediated", "place"),
    [
        (2, 0.8, 0.7, "cause"),
        (4, 0.8, 0.7, "mediator"),
        (5, 0.8, 0.7, "echo"),
        (9, 0.9, 0.0, "echo"),
        (2, 0.3, 0.25, "contributor"),
        (2, 0.0, 0.25, "bystander"),
        (2, 0.8, 0.1, "echo"),
        (2, 0.0, 0.0, "bystander"),
        (2, -0.3, -0.2, "bystander"),
    ],
)
def test_causes_lie_below_the_layers_that_write_and_work_through_them(layer, net, mediated, place):
    assert place_of(layer, causal(net, mediated), writing=[4, 5]) == place


def test_nothing_is_a_cause_where_no_layer_writes_or_chance_explains_it():
    assert place_of(2, causal(0.8, 0.7), writing=[]) == "echo"
    assert place_of(2, causal(0.8, 0.7, p=0.5), writing=[4]) == "bystander"


def test_a_family_needs_more_than_a_single_feature():
    assert place_of(2, causal(0.6, 0.55), writing=[4, 5]) == "cause"
    assert place_of(2, causal(0.6, 0.55), [4, 5], FAMILY_MEDIATED) == "contributor"
    assert place_of(2, causal(0.7, 0.65), [4, 5], FAMILY_MEDIATED) == "cause"


def test_the_span_of_a_gate_has_both_ends_where_it_is_too_wide():
    assert gate_span(2, [4, 5], 5) == [2, 3, 4, 5]
    assert gate_span(2, [4, 5], 3) == [2, 4, 5]
    assert gate_span(4, [5], 1) == [4, 5]
    assert gate_span(0, [3, 4, 5, 6, 7, 8], 5) == [0, 3, 4, 5, 6, 7, 8], "the ends alone exceed it too"
