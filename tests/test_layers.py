"""The range rules, on published and on known profiles."""

import numpy as np
import pytest
from figure_data import layers_of

from interp.profile.profile import commit_layer
from interp.profile.ranges import RangeScores, answer_range, growth_range, near_peak_range, overlap, ranges_of
from interp.schemas.layers import ProfileEntry
from interp.schemas.record import Interval
from interp.views.tables.search import search_facts

PUBLISHED = {10: 0.58, 13: 0.64, 15: 0.72, 17: 0.76, 19: 0.73, 22: 0.65, 25: 0.59}


def test_a_run_of_layers_far_apart_spans_no_more_than_max_layers():
    four = {9: 0.15, 17: 0.25, 22: 0.25, 29: 0.15}
    assert growth_range(four, max_layers=5).layers == [17]
    assert growth_range(four, max_layers=6).layers == list(range(17, 23))
    # The peak is a layer of the range, although layer 9 has a higher score.
    assert growth_range({0: 0.3, 2: 0.3, 9: 0.4}, share=0.5, max_layers=5) == (0, 2, 0)
    assert growth_range({0: 0.4, 2: 0.4, 9: 0.2}, max_layers=5).layers == [0, 1, 2]


def growth(recovery):
    return {i: r - (recovery[i - 1] if i else 0.0) for i, r in enumerate(recovery)}


def test_near_peak_gives_the_published_range():
    found = near_peak_range(PUBLISHED)
    assert (found.first, found.last, found.peak) == (15, 19, 17)


def test_near_peak_never_exceeds_max_layers():
    flat = dict.fromkeys(range(12), 0.7) | {6: 0.71}
    found = near_peak_range(flat, max_layers=3)
    assert found.last - found.first + 1 == 3
    assert found.first <= 6 <= found.last
    assert near_peak_range(PUBLISHED, max_layers=4).layers == [17, 18, 19]


def test_growth_finds_the_step_not_the_plateau():
    recovery = [0.0, 0.0, 0.05, 0.05, 0.45, 1.0, 1.0, 0.98, 1.0, 1.0]
    assert growth_range(growth(recovery)).layers == [4, 5]
    assert near_peak_range(dict(enumerate(recovery))).first == 5, "the height alone names the plateau"


def test_growth_on_the_prototypes_profiles():
    early = [0.10, 0.10, 0.21, 0.27, 0.34, 1.02, 0.95, 0.91, 1.02, 1.00]
    late = [0.27, 0.16, 0.28, 0.29, 0.21, 0.21, 0.08, 0.22, 1.00, 1.00]
    assert 5 in growth_range(growth(early)).layers
    assert set(growth_range(growth(late)).layers) <= {7, 8}


def test_growth_is_bounded_and_trimmed():
    spread = dict.fromkeys(range(10), 0.1)
    assert len(growth_range(spread, max_layers=4).layers) == 4
    assert growth_range({0: -0.2, 1: 1.0, 2: -0.1}).layers == [1]


@pytest.mark.parametrize(
    ("found", "planted", "share"), [([4, 5], [4, 5], 1), ([5], [4, 5], 0.5), ([1], [2], 0), ([2, 3, 4], [4, 5], 0.25)]
)
def test_overlap(found, planted, share):
    assert overlap(found, planted) == share


def test_negative_layers_do_not_shrink_the_total():
    # Two layers write .3 and .2, others take .3 away: the first alone holds 60% of what is written.
    writes = {0: -0.1, 1: -0.1, 2: -0.1, 3: 0.3, 4: 0.2, 5: -0.1}
    assert growth_range(writes).layers == [3, 4]
    assert growth_range(writes, share=0.6).layers == [3]


def _entry(layer: int, write: float) -> ProfileEntry:
    def sure(value: float) -> Interval:
        return Interval(value=value, low=value - 0.01, high=value + 0.01)

    same = dict.fromkeys(("recovery", "random_patch", "random_write"), sure(0.0))
    return ProfileEntry(
        layer=layer,
        flip_auc=sure(0.9),
        flip_auc_null=0.7,
        write=sure(write),
        net_write=sure(write),
        reversals=layer,
        fvu=0.1,
        l0=5.0,
        **same,
    )


def test_every_rule_reads_the_score_on_which_it_is_defined():
    layer = np.arange(10)
    scores = RangeScores(
        answer=np.select([layer < 3, layer < 4], [0.0, 0.5], 1.0),
        residual=(layer >= 5).astype(float),
        write=np.isin(layer, (1, 2)) * 0.3,
        flip_auc=np.where(layer == 8, 0.9, 0.6),
        blind=1,
    )
    ranges = ranges_of(layer.tolist(), scores, max_layers=2)
    assert list(ranges) == ["answer", "write", "growth", "near-peak"]
    assert [taken.layers for taken in ranges.values()] == [[3, 4], [1, 2], [5], [8]]


def test_a_search_in_which_nothing_recovers_has_ranges_all_the_same():
    ranges = ranges_of([0, 1, 2, 3], RangeScores(*[np.zeros(4)] * 4, blind=0), max_layers=2)
    assert all(0 <= taken.first <= taken.last < 4 for taken in ranges.values())


@pytest.mark.parametrize(
    ("layers", "net", "blind", "taken"),
    [
        # 75% of .8 are in layer 4 alone, though single layers add .96 in all.
        ([0, 1, 2, 3, 4, 5], [0.0, 0.08, 0.0, 0.08, 0.7, 0.8], 1, (4, 4)),
        # No image has reached layer 0, so what layer 1 shows may have been made in it.
        ([0, 1, 2, 3], [0.0, 0.6, 0.7, 0.7], 1, (0, 1)),
        ([0, 1, 2, 3], [0.0, 0.6, 0.7, 0.7], 0, (1, 1)),
        ([0, 1, 2, 3], [0.0, 0.0, 0.7, 0.7], 1, (2, 2)),
        # Six layers are more than a range may have.
        ([0, 1, 2, 3, 4, 5, 6], [0.0, 0.0, 0.0, 0.0, 0.0, 0.8, 0.8], 5, (5, 5)),
        ([0, 1, 2, 3, 4, 5, 6], [0.0, 0.0, 0.0, 0.0, 0.8, 0.8, 0.8], 4, (0, 4)),
        ([9, 17, 22], [0.0, 0.8, 0.9], 1, (17, 17)),
    ],
)
def test_the_range_of_the_answer_patch(layers, net, blind, taken):
    found = answer_range(layers, np.array(net), blind)
    assert (found.first, found.last) == taken
    assert found.peak in layers[blind:], "the layer that adds most is one where it can be seen"


def test_the_commit_layer_turns_half_of_the_flips_back():
    profile = [_entry(layer, 0.1) for layer in range(10)]
    assert commit_layer(profile, flips=12) == 6
    assert commit_layer(profile, flips=40) is None
    assert commit_layer(profile, flips=0) is None


def test_the_first_layer_of_a_partial_profile_is_not_credited_with_the_layers_below_it():
    residual = {0: 0.1, 1: 0.2, 2: 0.3, 3: 0.6, 4: 0.62, 5: 0.9, 6: 0.92}

    def ranges(first: int):
        shown = [layer for layer in residual if layer >= first]
        recovered = np.array([residual[layer] for layer in shown])
        nothing = np.zeros(len(shown))
        return ranges_of(shown, RangeScores(nothing, recovered, nothing, nothing, blind=0), 1)

    assert ranges(0)["growth"].layers == [3]
    # Layer 3 recovers .6, most of it from the layers below, which are not profiled.
    assert ranges(3)["growth"].layers == [5]
    assert ranges(6)["growth"].layers == [6]


@pytest.mark.parametrize(("first", "says"), [(0, "from layer 3 on"), (3, "at or before layer 3")])
def test_a_partial_profile_does_not_say_that_its_first_layer_is_the_first_to_restore_flips(first, says):
    found = layers_of(5)
    profile = [_entry(layer, 0.1) for layer in range(first, 5)]
    facts = dict(search_facts(found.model_copy(update={"commit_layer": 3, "profile": profile})))
    assert facts["Half of the flips restored"] == f"by residual patches {says}"
