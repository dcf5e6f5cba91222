"""The verdict and what it rests on, on effects made by hand: growth, share, the window's test, formality, judgement."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control, ttest_1samp

from interp.causal.answer_patching import AnswerPatches
from interp.causal.layer_patching import LayerPatches
from interp.causal.register_patching import RegisterPatches
from interp.causal.window_patching import WindowEffect
from interp.profile.formality import formality
from interp.profile.profile import LayerEffects, answer_growth, blind_layers, growth_significance
from interp.profile.range_test import RangeTest, made_in, range_test
from interp.profile.ranges import LayerRange, growth_range
from interp.profile.verdict import judge
from interp.schemas.layers import TRAINABLE, FormalityEntry, GateVerdict, Layers, ProfileEntry
from interp.schemas.record import Interval
from interp.screening.flips import Flips, Halves, filled_bank
from interp.search.artifact import register_warnings

UNKNOWN = Interval(value=None, low=None, high=None)


def flips_of(count=20, patients=10, size=2.0):
    """Flips from -size / 2 to size / 2, dealt to patients in turn."""
    pairs = pd.DataFrame({"patient": [f"p{i % patients}" for i in range(count)]}, dtype=object)
    all_of_them = np.ones(count, bool)
    return Flips(pairs, np.full(count, -size / 2), np.full(count, size / 2), all_of_them, all_of_them)


def answers(net, count=20, random=0.1):
    """The same net effects [layers] for every pair, above an effect of random directions."""
    effect = np.tile(np.array(net, float), (count, 1))
    return AnswerPatches(effect + random, np.full(effect.shape, random))


def whole_layers(residual, count=20, random=0.0):
    """Effects of patching whole layers of flips from 1 to -1, of which only the residual patch is read."""
    found = np.tile(np.array(residual, float), (count, 1))
    rest = (np.zeros(found.shape) for _ in range(2))
    return LayerPatches(
        np.full(count, -2.0), -found - random, np.full(found.shape, -random), *rest, np.full(count, 1.0)
    )  # fmt: skip


def effects_of(net, by_image=(), register=None, register_selected=None, images=None, residual=None):
    return LayerEffects(
        patches=whole_layers([1.0] * len(net) if residual is None else residual, random=0.3),
        answers=answers(net),
        selected=flips_of(),
        answers_selected=answers(net),
        patches_selected=whole_layers([0.0] * len(net)),
        answers_by_image=answers(by_image, count=len(images.pairs) if images else 0),
        by_image=images or flips_of(0),
        register=register,
        register_selected=register_selected,
    )


@pytest.mark.parametrize(
    ("layers", "net", "grown"),
    [
        ([0, 1, 2], [0.1, 0.5, 0.4], {0: 0.1, 1: 0.4, 2: -0.1}),
        ([9, 17, 22, 29], [0.2, 0.3, 0.9, 1.0], {17: 0.1, 22: 0.6, 29: 0.1}),
        ([3, 4], [0.2, 0.9], {4: 0.7}),
        ([4], [0.8], {4: 0.8}),
    ],
)
def test_the_answer_grows_from_one_profiled_layer_to_the_next(layers, net, grown):
    found = answer_growth(answers(net, count=3), layers)
    assert list(found) == list(grown)
    for layer, growth in grown.items():
        np.testing.assert_allclose(found[layer], [growth] * 3, atol=1e-12)
    assert growth_range({layer: each.sum() for layer, each in found.items()}).first in grown


@pytest.mark.parametrize(
    ("layers", "net", "taken", "share"),
    [
        ([0, 1, 2, 3], [0.0, 0.1, 0.8, 1.0], (2, 2), 0.7),
        ([0, 1, 2, 3], [0.0, 0.1, 0.8, 0.4], (1, 2), 1.0),
        # Of the largest net effect, not of the last: what layer 3 takes away was made before.
        ([0, 1, 2, 3], [0.0, 0.1, 0.8, 0.4], (2, 2), 0.7 / 0.8),
        ([0, 1, 2, 3], [0.3, 0.3, 0.3, 0.3], (0, 0), 1.0),
        ([9, 17, 22, 29], [0.2, 0.3, 0.9, 1.0], (17, 22), 0.7),
        # What the first layer of a partial profile recovers may have been made below it.
        ([3, 4, 5], [0.6, 0.8, 1.0], (3, 4), 0.2),
        ([4], [0.8], (4, 4), 1.0),
    ],
)
def test_the_share_of_a_range_is_its_growth_of_the_largest_net_effect(layers, net, taken, share):
    found = made_in(LayerRange(*taken, taken[0]), answers(net), layers, flips_of(), seed=0)
    assert found.value == pytest.approx(share)
    # Every pair says the same, so there is no uncertainty.
    assert (found.low, found.high) == pytest.approx((share, share))


def test_the_share_is_one_of_sums_over_pairs_with_an_interval_over_patients():
    flips = flips_of(count=40, patients=8)
    strong = np.arange(40) % 8 == 0
    effect = np.where(strong[:, None], [[1.0, 1.0]], [[0.0, 0.5]])
    patches = AnswerPatches(effect, np.zeros_like(effect))
    found = made_in(LayerRange(1, 1, 1), patches, [0, 1], flips, seed=0)
    # 35 pairs grow by .5, 5 not at all; the net effects of layer 1 are .5 and 1.
    assert found.value == pytest.approx(17.5 / 22.5)
    assert found.low < 17.5 / 22.5 < found.high == 1.0


@pytest.mark.parametrize(("count", "patients"), [(0, 1), (20, 1), (20, 2)])
def test_few_patients_give_no_interval_and_no_pairs_no_share(count, patients):
    found = made_in(LayerRange(1, 1, 1), answers([0.1, 0.9], count), [0, 1], flips_of(count, patients), seed=0)
    assert (found.low, found.high) == (None, None)
    assert found.value == (pytest.approx(0.8 / 0.9) if count else None)


def test_answers_that_no_patch_recovers_have_no_share():
    assert made_in(LayerRange(0, 0, 0), answers([0.0, 0.0]), [0, 1], flips_of(), seed=0) == UNKNOWN


def test_a_range_is_tested_by_hand():
    window = WindowEffect(*(np.full(20, effect) for effect in (1.5, 1.0, 0.2, 0.1)))
    images = flips_of(12, 6, size=4.0)
    effects = effects_of([0.0, 0.8, 1.0], [0.0, 0.5, 2.0], images=images, residual=[1.8, 1.9, 2.0])
    found = range_test(LayerRange(1, 1, 1), window, effects, [0, 1, 2], flips_of(), seed=0)
    assert found.share.value == pytest.approx(0.8)
    assert found.formed.value == pytest.approx(0.25)
    # Shares of a shift of 2 logits; the residual patch is that of the layer below the range.
    assert [each.value for each in found[2:]] == pytest.approx([0.9, 0.75, 0.5, 0.1, 0.05])
    # No image reaches layer 0, so a range from there on makes its answer after it.
    assert range_test(LayerRange(0, 1, 1), window, effects, [0, 1, 2], flips_of(), seed=0).arrived.value == 0.9
    effects = effects._replace(by_image=flips_of(0), answers_by_image=answers([0.0] * 3, count=0))
    # What is at the final token below the first profiled layer is unknown, but nothing is there before layer 0.
    assert range_test(LayerRange(3, 4, 4), window, effects, [3, 4, 5], flips_of(), seed=0).arrived == UNKNOWN
    assert range_test(LayerRange(0, 1, 1), window, effects, [0, 1, 2], flips_of(), seed=0).arrived.value == 0


def test_a_range_without_flips_or_other_images_is_tested_without_a_result():
    nothing = WindowEffect(*(np.zeros(0) for _ in range(4)))
    effects = effects_of([0.0, 0.8])._replace(answers=answers([0.0, 0.8], count=0), patches=whole_layers([0, 1], 0))
    found = range_test(LayerRange(1, 1, 1), nothing, effects, [0, 1], flips_of(0), seed=0)
    assert found == RangeTest(*[UNKNOWN] * 7)


def register(effect, count=20, random=0.1):
    found = np.tile(np.array(effect, float), (count, 1))
    return RegisterPatches(found, np.full(found.shape, random))


def test_formality_is_tested_at_the_layer_that_the_other_half_chooses():
    # The held-out half itself would choose layer 7.
    effects = effects_of([0.0] * 3, register=register([0.2, 1.2, 1.8]), register_selected=register([0.5, 1.5, 1.0]))
    found = formality([3, 5, 7], effects, flips_of(), seed=0)
    assert found == FormalityEntry(
        layer=5,
        recovery=Interval(value=0.6, low=0.6, high=0.6),
        random=Interval(value=0.05, low=0.05, high=0.05),
        holds=True,
    )


@pytest.mark.parametrize(("effect", "holds"), [(0.98, False), (1.0, False), (1.02, True)])
def test_the_register_must_recover_more_than_half(effect, holds):
    effects = effects_of([0.0], register=register([effect]), register_selected=register([1.0]))
    assert formality([4], effects, flips_of(), seed=0).holds == holds


def test_no_claim_of_formality_without_registers_flips_or_enough_patients():
    known = register([1.8])
    assert formality([4], effects_of([0.0]), flips_of(), seed=0) is None
    assert formality([4], effects_of([0.0], register=known), flips_of(), seed=0) is None
    both = effects_of([0.0], register=known, register_selected=known)
    assert formality([4], both, flips_of(0), seed=0) is None
    alone = formality([4], both, flips_of(20, patients=1), seed=0)
    assert (alone.recovery.value, alone.recovery.low, alone.holds) == (0.9, None, False)
    # A selection half without flips chooses the first layer.
    blind = effects_of([0.0] * 2, register=register([0.2, 1.8]), register_selected=register([1.0, 1.0], count=0))
    assert formality([4, 5], blind, flips_of(), seed=0).layer == 4


def sure(value, half=0.0):
    return Interval(value=value, low=value - half, high=value + half)


@pytest.mark.parametrize(
    ("net", "count", "blind"),
    [
        ([0.0, 0.5, 2.0], 12, 1),
        ([0.19, 0.2, 0.0], 12, 1),
        ([0.1, 0.1, 0.2], 12, 2),
        ([0.5, 0.5, 0.5], 12, 0),
        # Where no image changes an answer, or no patch shows it, nothing is known of the layers that images reach.
        ([0.1, 0.1, 0.1], 12, 0),
        ([0.0, 0.5, 2.0], 0, 0),
    ],
)
def test_layers_are_blind_where_images_recover_less_than_a_twentieth(net, count, blind):
    assert blind_layers(answers(net, count), flips_of(count, 6, size=4.0)) == blind


def test_the_growth_of_a_layer_is_significant_beside_that_of_the_others():
    generator = np.random.default_rng(0)
    grown = np.array([0.0, 0.5, 0.0, 0.0]) + generator.normal(0, 0.1, (40, 4))
    found = growth_significance(dict(zip(range(4), grown.T, strict=True)), np.full(40, 2.0), [*range(40)], seed=0)
    alone = [ttest_1samp(each, 0).pvalue for each in grown.T]
    np.testing.assert_allclose([found[k] for k in range(4)], false_discovery_control(alone), atol=0.02)
    assert [found[k] < 0.05 for k in range(4)] == [False, True, False, False]
    assert growth_significance({0: np.zeros(0)}, np.zeros(0), [], seed=0) == {0: 1.0}


def half_of(before, after, threshold=0.25):
    pairs = pd.DataFrame({"patient": [f"p{i}" for i in range(len(before))]}, dtype=object)
    return Flips.between(pairs, np.array(before, float), np.array(after, float), threshold)


def test_few_flips_are_filled_up_with_the_pairs_that_move_most():
    # The first flips; the third flips by too little; of the others, the last moves most.
    half = half_of([1, 1, 0.1, 3, 5], [-1, 0.8, -0.1, 2, 1])
    assert half.banked.tolist() == [True, False, False, False, False]
    taken = {enough: filled_bank(half, enough).pairs["patient"].tolist() for enough in (0, 1, 2, 3, 9)}
    assert taken == {
        0: ["p0"],
        1: ["p0"],
        2: ["p0", "p4"],
        3: ["p0", "p3", "p4"],
        9: ["p0", "p1", "p2", "p3", "p4"],
    }
    assert len(filled_bank(half.take(np.zeros(5, bool)), 4).pairs) == 0


@pytest.mark.parametrize(
    ("tagged", "said"),
    [(0, []), (1, ["only 1 pair of the selection half has a formal"]), (19, ["only 19 pairs"]), (20, [])],
)
def test_too_few_pairs_with_registers_are_reported(tagged, said):
    half = half_of(np.ones(30), -np.ones(30))
    registers = ["formal-casual"] * tagged + [None] * (30 - tagged)
    selection = half._replace(pairs=half.pairs.assign(registers=registers))
    found = register_warnings(Halves(selection, half))
    assert [text[: len(start)] for text, start in zip(found, said, strict=True)] == said


def entry(layer, growth, p=None):
    known = growth is not None and growth.low is not None
    same = dict.fromkeys(("flip_auc", "recovery", "random_patch", "write", "random_write", "net_write"), sure(0.5))
    return ProfileEntry(
        layer=layer,
        flip_auc_null=None,
        reversals=0,
        fvu=None,
        l0=None,
        answer_growth=growth,
        growth_p=(0.001 if known and growth.low > 0 else 1.0) if p is None else p,
        **same,
    )  # fmt: skip


def profile_of(layers=10, growing=(4, 5)):
    return [entry(layer, sure(0.4 if layer in growing else 0.0, 0.1)) for layer in range(layers)]


def effect_of(share, formed=0.2, half=0.05, arrived=1.0):
    rest = dict.fromkeys(("restored", "broken", "random_restored", "random_broken"), sure(0.5))
    rest["arrived"] = arrived if isinstance(arrived, Interval) else sure(arrived, half)
    shares = [each if isinstance(each, Interval) else sure(each, half) for each in (share, formed)]
    return RangeTest(*shares, **rest)


REGISTER = FormalityEntry(layer=2, recovery=sure(0.9), random=sure(0.0), holds=True)
NO_REGISTER = REGISTER.model_copy(update={"holds": False})
WIDE = LayerRange(4, 5, 4)


def judged(
    share=0.9, formed=0.2, claim=None, taken=WIDE, profile=None, bank=None, min_flips=10, half=0.05, arrived=1.0
):
    tested = effect_of(share, formed, half, arrived)
    return judge(profile or profile_of(), bank or flips_of(), taken, tested, claim, min_flips)


@pytest.mark.parametrize(
    ("first", "answer", "random", "below"),
    [
        (6, (0.66, 0.6), 0.05, True),
        (0, (0.66, 0.6), 0.05, False),
        (6, (0.1, -0.02), 0.05, False),
        (6, (0.1, 0.02), 0.05, False),
    ],
)
def test_an_answer_that_is_there_in_the_first_profiled_layer_was_made_below(first, answer, random, below):
    profile = [entry(layer, None if layer == first else sure(0.0, 0.1)) for layer in range(first, first + 4)]
    held = Interval(value=answer[0], low=answer[1], high=1.0)
    profile[0] = profile[0].model_copy(
        update={"answer": held, "random_answer": Interval(value=0.0, low=-0.1, high=random)}
    )
    found = judged(profile=profile)
    assert (found.verdict, found.layers) == ("no gate found", [])
    assert ("was made in layers 0-6: profile these, too" in found.reason) == below


def test_every_verdict_is_reached_with_its_layers_and_reason():
    found = {
        "gate found": judged(),
        "arrives from the question": judged(arrived=0.2),
        "as answers form": judged(formed=0.95),
        "spread over layers": judged(share=0.4, profile=profile_of(growing=(1, 2, 4, 8))),
        "no gate found": judged(profile=profile_of(growing=())),
        "too few flips": judged(bank=flips_of(9)),
    }
    assert set(found) == set(GateVerdict.__args__)
    for verdict, one in found.items():
        assert one.verdict == verdict
    assert [one.layers for one in found.values()] == [[4, 5], [4, 5], [4, 5], [1, 2, 4, 8], [], []]
    says = [
        "layers 4-5 make 0.90 of the flipped",
        "below them recovers 0.20",
        "they also make 0.95",
        "1-2, 4, 8",
        "in no profiled layer",
        "9 flips",
    ]
    assert [says[k] in one.reason for k, one in enumerate(found.values())] == [True] * 6


@pytest.mark.parametrize(
    ("flips", "patients", "few"), [(9, 9, True), (10, 5, False), (10, 4, True), (0, 1, True), (1, 1, True)]
)
def test_too_few_flips_or_patients(flips, patients, few):
    found = judged(bank=flips_of(flips, patients))
    assert (found.verdict == "too few flips") == few
    if flips == 1:
        assert "only 1 flip of 1 patient is large enough" in found.reason


def test_the_share_must_be_above_the_middle_between_an_even_one_and_all():
    # Two of ten layers: (1 + .2) / 2.
    for low, verdict in ((0.6, "spread over layers"), (0.601, "gate found"), (None, "spread over layers")):
        share = Interval(value=0.8, low=low, high=1.0)
        assert judged(share).verdict == verdict, low
    # One layer needs less, five of ten more, and all that are profiled can never be few.
    half = Interval(value=0.6, low=0.57, high=0.7)
    assert judged(half, taken=LayerRange(4, 4, 4)).verdict == "gate found"
    assert judged(Interval(value=0.8, low=0.74, high=1), taken=LayerRange(3, 7, 4)).verdict == "spread over layers"
    assert judged(Interval(value=1, low=1, high=1), taken=LayerRange(0, 9, 4)).verdict == "spread over layers"
    # Of the profiled layers, of which this range holds two of four, however many lie between them.
    few = [entry(layer, sure(0.3, 0.1)) for layer in (9, 17, 22, 29)]
    for low, verdict in ((0.75, "spread over layers"), (0.76, "gate found")):
        share = Interval(value=0.8, low=low, high=1.0)
        assert judged(share, taken=LayerRange(17, 22, 22), profile=few).verdict == verdict, low
    # What grows up to layer 17 may have been made in any layer above 9.
    assert judged(share, taken=LayerRange(17, 22, 22), profile=few).layers == list(range(10, 23))
    assert judged(0.4, taken=LayerRange(17, 22, 22), profile=few).layers == [9, *range(10, 30)]


def test_a_gate_makes_twice_as_much_of_the_flips_as_of_every_answer_or_the_register_alone_causes_them():
    share = Interval(value=0.9, low=0.8, high=1.0)
    for high, verdict in ((0.39, "gate found"), (0.4, "as answers form"), (0.9, "as answers form")):
        formed = Interval(value=0.3, low=0.2, high=high)
        assert judged(share, formed).verdict == verdict, high
        assert judged(share, formed, NO_REGISTER).verdict == verdict, high
        assert judged(share, formed, REGISTER).verdict == "gate found", high
    assert "the register alone, at layer 2, recovers 0.90" in judged(share, formed, REGISTER).reason
    # Or, where the register is not the cause, the final token must hold the difference before the range.
    for low, verdict in ((0.5, "arrives from the question"), (0.51, "gate found"), (None, "arrives from the question")):
        arrived = Interval(value=0.7, low=low, high=0.9)
        assert judged(arrived=arrived).verdict == verdict, low
        assert judged(arrived=arrived, claim=REGISTER).verdict == "gate found", low
    # The register does not make a few layers of many.
    assert judged(0.4, claim=REGISTER).verdict == "spread over layers"
    assert judged(profile=profile_of(growing=()), claim=REGISTER).verdict == "no gate found"


def test_undefined_intervals_prove_nothing():
    assert judged(UNKNOWN).verdict == "spread over layers"
    assert judged(profile=[entry(layer, None) for layer in range(10)]).verdict == "no gate found"
    assert judged(profile=[entry(layer, UNKNOWN) for layer in range(10)]).verdict == "no gate found"
    assert judged(profile=[entry(layer, sure(0.1, 0.1)) for layer in range(10)]).verdict == "no gate found"
    # Significant alone, but not among ten layers.
    assert judged(profile=[entry(layer, sure(0.1, 0.05), p=0.06) for layer in range(10)]).verdict == "no gate found"
    assert judged(profile=[entry(layer, sure(-0.1, 0.05), p=0.001) for layer in range(10)]).verdict == "no gate found"


@pytest.mark.parametrize("formed", [UNKNOWN, Interval(value=0.1, low=None, high=None)])
def test_answers_that_no_image_changes_are_not_said_to_be_made_there(formed):
    found = judged(formed=formed)
    assert found.verdict == "as answers form"
    assert "they also make" not in found.reason
    assert "too few answers differ because the image does" in found.reason


def test_a_profile_of_one_layer_cannot_tell_where_the_answer_is_made():
    one = [entry(6, sure(0.9, 0.05))]
    found = judged(sure(1.0), claim=REGISTER, taken=LayerRange(6, 6, 6), profile=one)
    assert (found.verdict, found.layers) == ("no gate found", [])
    assert "only layer 6 is profiled" in found.reason


def test_a_verdict_that_names_layers_to_train_needs_layers(layers_content):
    for verdict in TRAINABLE:
        with pytest.raises(ValueError, match="no layer is named"):
            Layers.model_validate(layers_content | {"verdict": verdict, "layers": [], "peak": None})
    for verdict in ("no gate found", "too few flips"):
        assert Layers.model_validate(layers_content | {"verdict": verdict, "layers": []}).verdict == verdict


@pytest.fixture
def layers_content():
    from layers_files import layers_document

    return layers_document("m", 3, 8)
