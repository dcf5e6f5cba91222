"""The place of a studied feature, its layers, the SAE error and its family, against plain transformers and numpy."""

import numpy as np
import pandas as pd
import pytest
import torch
from figure_data import study_of
from test_find_features import plain_margin

from interp.causal.layer_patching import PatchTarget, rerun_paraphrases
from interp.causal.mediation import falls_by_layer
from interp.causal.sae_error import PARTS, split_shift
from interp.causal.vector_patching import RANDOMS, patch_vectors
from interp.feature.clamping import clamp_feature
from interp.feature.notes import missing_numbers
from interp.feature.register_grid import read_grid
from interp.feature.study import study_feature
from interp.measurement.margins import measure
from interp.model.load import load_vlm
from interp.paths import WORLD
from interp.profile.places import place_of
from interp.questions.files import load_questions
from interp.questions.tables import pair_table, prompt_table
from interp.saes.locate import locate_saes
from interp.saes.sae import load_sae
from interp.saes.sparse_codes import differences, encode_sparse
from interp.schemas.published import published_on
from interp.schemas.record import Interval
from interp.schemas.rules import LEAST_FLIPS
from interp.screening.families import SEEDS, best_family, find_relatives
from interp.screening.flips import find_flips, questions_that_can_flip, sides
from interp.views.tables.feature import conclusion, study_tables
from interp.views.tables.feature_place import place_lines

LAYER, FEATURE, LAST = 3, 139, 9


@pytest.fixture(scope="module")
def vlm():
    return load_vlm(WORLD / "planted", "cpu", "float32")


@pytest.fixture(scope="module")
def sae():
    return load_sae(locate_saes(WORLD / "saes")[LAYER], LAYER, 128)


@pytest.fixture(scope="module")
def prompts():
    return prompt_table(questions_that_can_flip(load_questions(split="train"))[:100])


@pytest.fixture(scope="module")
def measured(vlm, prompts):
    return measure(vlm, prompts, [LAYER])


@pytest.fixture(scope="module")
def flips(prompts, measured):
    return find_flips(prompts, pair_table(prompts), measured.margin, 0.25)


@pytest.fixture(scope="module")
def bank(vlm, prompts, flips):
    banked = flips.take(flips.banked)
    few = banked.take(np.arange(len(banked.pairs)) < 8)
    assert len(few.pairs) == 8
    return PatchTarget(few, rerun_paraphrases(vlm, prompts, few))


@pytest.fixture(scope="module")
def plain(vlm, prompts, bank):
    """Margin and residuals of both wordings of every pair of `bank`, by transformers alone."""
    return [
        tuple(plain_margin(vlm, prompts.iloc[pair[k]]) for k in ("original", "paraphrase"))
        for _, pair in bank.flips.pairs.iterrows()
    ]


def recovered(vlm, prompts, bank, plain, layer, vectors):
    """Recovery by one vector a pair added after `layer`: the sum of the effects over the sum of |shift|."""
    top, bottom = 0.0, 0.0
    for (_, pair), ((before, _), (after, seen)), vector in zip(
        bank.flips.pairs.iterrows(), plain, vectors, strict=True
    ):
        margin, _ = plain_margin(vlm, prompts.iloc[pair["paraphrase"]], layer, seen[layer] + vector)
        top += (margin - after) * np.sign(before - after)
        bottom += abs(before - after)
    return top / bottom


def feature_vectors(sae, plain, feature):
    """What undoes a feature's change in every pair."""
    return [(sae.encode(q[LAYER]) - sae.encode(p[LAYER]))[feature] * sae.w_dec[feature] for (_, q), (_, p) in plain]


def test_the_falls_are_what_plain_hooks_lose_from_layer_to_layer(vlm, sae, prompts, bank, plain):
    vectors = feature_vectors(sae, plain, 206)
    falls = falls_by_layer(bank, LAYER, torch.stack(vectors), seed=0)
    effects = [recovered(vlm, prompts, bank, plain, layer, vectors) for layer in range(LAYER, LAST + 1)]
    assert [fall.layer for fall in falls] == list(range(LAYER + 1, LAST + 1))
    np.testing.assert_allclose([fall.effect.value for fall in falls], effects[1:], atol=1e-4)
    np.testing.assert_allclose([fall.fall.value for fall in falls], -np.diff(effects), atol=1e-4)
    assert falls_by_layer(bank, LAST, torch.stack(vectors), seed=0) == []


def test_the_parts_of_the_residual_by_plain_hooks(vlm, sae, prompts, measured, bank, plain):
    parts = split_shift(sae, measured.residuals[:, 0], bank.flips.pairs)
    assert PARTS == ("whole", "features", "error")
    whole = torch.stack([q[LAYER] - p[LAYER] for (_, q), (_, p) in plain])
    decoded = torch.stack(
        [sae.decode(sae.encode(q[LAYER])) - sae.decode(sae.encode(p[LAYER])) for (_, q), (_, p) in plain]
    )
    torch.testing.assert_close(parts[:, 0], whole, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(parts[:, 1], decoded, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(parts[:, 2], whole - decoded, atol=1e-3, rtol=1e-3)
    tests = patch_vectors(bank, [LAYER] * 3, parts, seed=0)
    for i, test in enumerate(tests):
        total, direct = (recovered(vlm, prompts, bank, plain, layer, parts[:, i]) for layer in (LAYER, LAST))
        assert test.recovery.value == pytest.approx(total, abs=1e-4)
        assert test.direct.value == pytest.approx(direct, abs=1e-4)
    assert tests[0].reversals >= 6


def test_every_vector_is_added_after_its_own_layer(vlm, sae, prompts, bank, plain):
    vectors = torch.stack(feature_vectors(sae, plain, 206))[:, None].repeat(1, 2, 1)
    tests = patch_vectors(bank, [LAYER, LAYER + 2], vectors, seed=0)
    for test, layer in zip(tests, (LAYER, LAYER + 2), strict=True):
        assert test.recovery.value == pytest.approx(
            recovered(vlm, prompts, bank, plain, layer, vectors[:, 0]), abs=1e-4
        )
    assert tests[0].direct.value == pytest.approx(tests[1].direct.value, abs=1e-6)


def test_random_directions_are_subtracted(bank):
    """A vector that is itself a random direction recovers nothing in the mean over pairs and draws."""
    generator = torch.Generator().manual_seed(5)
    vectors = torch.randn(len(bank.flips.pairs), 6, 128, generator=generator) * 0.3
    assert abs(np.mean([test.net.value for test in patch_vectors(bank, [LAYER] * 6, vectors, seed=1)])) < 0.02
    assert RANDOMS > 1


def test_an_empty_vector_is_never_significant(bank):
    empty = torch.zeros(len(bank.flips.pairs), 1, 128)
    (test,) = patch_vectors(bank, [LAYER], empty, seed=0)
    assert (test.p, test.p_mediated) == (1, 1)
    assert {fall.p for fall in falls_by_layer(bank, LAYER, empty[:, 0], seed=0)} == {1.0}


def codes_of(sae, measured, flips):
    """The SAE, its activations, and their differences over all pairs."""
    activations = encode_sparse(sae, measured.residuals[:, 0])
    return sae, activations.by_feature, differences(activations, *sides(flips.pairs))


def test_the_family_by_numpy(sae, measured, flips):
    f = sae.encode(measured.residuals[:, 0]).double().numpy()
    pairs = flips.pairs
    delta = f[pairs["paraphrase"]] - f[pairs["original"]]
    with np.errstate(invalid="ignore"):
        r = np.nan_to_num(np.corrcoef(delta.T)[FEATURE])
    w = sae.w_dec.double().numpy()
    cosine = w @ w[FEATURE] / np.linalg.norm(w, axis=1) / np.linalg.norm(w[FEATURE])
    on = f > 0
    overlap = (on & on[:, [FEATURE]]).sum(0) / np.maximum((on | on[:, [FEATURE]]).sum(0), 1)
    expected = [i for i in np.argsort(-np.abs(r)) if i != FEATURE and r[i] and (abs(r[i]) >= 0.7 or cosine[i] >= 0.5)][
        :9
    ]
    found = find_relatives(*codes_of(sae, measured, flips), FEATURE)
    assert [each.feature for each in found] == expected
    assert {315, 208} <= set(expected)
    for each in found:
        assert each.r == pytest.approx(r[each.feature], abs=1e-4)
        assert each.cosine == pytest.approx(cosine[each.feature], abs=1e-4)
        assert each.overlap == pytest.approx(overlap[each.feature], abs=1e-4)
        assert each.kinship == ("companion" if each.r > 0 else "opposite")


def test_a_duplicate_and_a_split_are_told_apart(sae, measured, flips):
    """Two features with the direction of FEATURE: one encodes as it does, the other is active where it is not."""
    w_enc, w_dec, b_enc, threshold = (x.clone() for x in (sae.w_enc, sae.w_dec, sae.b_enc, sae.threshold))
    for i, source in ((0, FEATURE), (1, 315)):
        w_enc[:, i], b_enc[i], threshold[i] = sae.w_enc[:, source], sae.b_enc[source], sae.threshold[source]
        w_dec[i] = sae.w_dec[FEATURE]
    made = sae._replace(w_enc=w_enc, w_dec=w_dec, b_enc=b_enc, threshold=threshold)
    found = {each.feature: each.kinship for each in find_relatives(*codes_of(made, measured, flips), FEATURE)}
    assert (found[0], found[1], found[315]) == ("duplicate", "split", "opposite")


def test_the_best_family_is_that_of_the_largest_sum_of_attributions(sae, measured, flips):
    given = codes_of(sae, measured, flips)
    generator = np.random.default_rng(3)
    attribution = pd.Series(generator.normal(size=30), index=generator.choice(512, 30, replace=False))
    sums = {}
    for seed in attribution.nlargest(SEEDS).index:
        members = (int(seed), *(each.feature for each in find_relatives(*given, int(seed))))
        sums[members] = sum(attribution.get(i, 0.0) for i in members)
    found = best_family(*given, attribution)
    assert found.features == max(sums, key=sums.get)
    assert found.path_attribution == pytest.approx(max(sums.values()))
    assert found.layer == LAYER
    assert best_family(*given, attribution[:0]).features == ()


def test_the_clamp_by_plain_hooks(vlm, sae, prompts, measured):
    few = prompts[prompts["question"] < 12]
    found = clamp_feature(vlm, sae, 206, few, measured.margin[: len(few)], seed=0)
    flipped, right = {True: [], False: []}, {True: [], False: []}
    for _, rows in few.groupby("question"):
        margins = {True: [], False: []}
        for _, row in rows.iterrows():
            margin, seen = plain_margin(vlm, row)
            margins[False].append(margin)
            x = seen[LAYER] - sae.encode(seen[LAYER])[206] * sae.w_dec[206]
            margins[True].append(plain_margin(vlm, row, LAYER, x)[0])
        for held, own in margins.items():
            flipped[held].append(any((m > 0) != (own[0] > 0) for m in own[1:]))
            right[held] += [(m > 0) == (rows["answer"].iloc[0] == "yes") for m in own]
    assert found.flip_rate_before.value == pytest.approx(np.mean(flipped[False]), abs=1e-6)
    assert found.flip_rate_after.value == pytest.approx(np.mean(flipped[True]), abs=1e-6)
    assert found.accuracy_change.value == pytest.approx(np.mean(right[True]) - np.mean(right[False]), abs=1e-5)


def test_published_figures_are_found_by_feature_and_sae():
    published = published_on("17:3818", "layer_17_width_16k_l0_medium")
    assert {figure.measure: figure.value for figure in published.figures}["recovery"] == 0.448
    assert published_on("17:3818", "layer_17_width_65k_l0_medium") is None
    assert published_on("17:3817", "layer_17_width_16k_l0_medium") is None


def studied(layer, net, direct, mediated, writing, p=0.001):
    """A study with these effects, each with an interval of .04, and the place that follows from them."""

    def estimate(value):
        return Interval(value=value, low=value - 0.02, high=value + 0.02)

    base = study_of()
    test = base.test.model_copy(
        update={
            "net": estimate(net),
            "direct": estimate(direct),
            "mediated": estimate(mediated),
            "net_mediated": estimate(mediated),
            "p": p,
            "p_mediated": 0.001,
        }
    )
    place = place_of(layer, test, writing)
    return base.model_copy(update={"layer": layer, "test": test, "writing_layers": writing, "place": place})


PLACES = [
    # place, (layer, net, direct, mediated, writing), what the sentence says, what would change it, and a case of that
    (
        *("cause", (3, 0.9, 0.1, 0.8, [5, 6]), "what layers 5-6 above it write"),
        *("below 0.4 would make it a contributor", ("contributor", (3, 0.4, 0.1, 0.3, [5, 6]))),
    ),
    (
        *("cause", (3, 0.9, 0.5, 0.8, [5]), "what layer 5 above it writes"),
        *("below 0.4 would make it an echo", ("echo", (3, 0.6, 0.5, 0.3, [5]))),
    ),
    (
        *("cause", (3, 0.9, 0.1, 0.8, [5]), "(net mediated recovery 0.80 [0.78, 0.82])"),
        *("a layer from 0 to 3 that writes would make it a mediator", ("mediator", (3, 0.9, 0.1, 0.8, [2, 5]))),
    ),
    (
        *("mediator", (5, 0.9, 0.1, 0.8, [4, 6]), "among the layers that write the answer (4, 6)"),
        *("if no layer from 0 to 5 wrote, it would be a cause", ("cause", (5, 0.9, 0.1, 0.8, [6]))),
    ),
    (
        *("contributor", (3, 0.3, 0.1, 0.2, [5]), "layer 5 above it uses its change"),
        *("a net mediated recovery of 0.4 would make it a cause", ("cause", (3, 0.5, 0.1, 0.4, [5]))),
    ),
    (
        *("echo", (6, 0.3, 0.3, 0.0, [4, 5]), "no layer above it writes; layers 4-5 do"),
        *("only a layer above 6 that writes", ("contributor", (6, 0.3, 0.0, 0.3, [7]))),
    ),
    (
        *("echo", (3, 0.3, 0.28, 0.02, [5]), "later layers make little of its change"),
        *("a mediated part above the direct one would make it a contributor", ("contributor", (3, 0.3, 0.1, 0.2, [5]))),
    ),
    (
        *("echo", (3, 0.3, 0.1, 0.2, []), "no layer writes the answer above chance"),
        *("a layer above it that writes", ("contributor", (3, 0.3, 0.1, 0.2, [5]))),
    ),
    (
        *("bystander", (3, 0.0, 0.0, 0.0, [5]), "does not bring the answer back"),
        *("a net recovery above zero would make it an echo", ("echo", (3, 0.1, 0.1, 0.0, [5]))),
    ),
]


@pytest.mark.parametrize(("place", "given", "says", "change", "changed"), PLACES)
def test_the_sentence_says_the_place_and_what_would_change_it(place, given, says, change, changed):
    study = studied(*given)
    assert study.place == place
    first, second = (line.replace("\xa0", " ") for line in place_lines(study)[:2])
    assert first.startswith(f"{given[0]}:{study.feature} is a")
    assert f" {place}: " in first
    assert says in first
    assert change in second
    other, numbers = changed
    assert studied(*numbers).place == other


def test_a_bystander_may_be_a_cause_with_its_family(vlm, sae):
    """Register features of layer 3 are many: 3:139 alone changes nothing, with its relatives nearly everything."""
    questions = load_questions(split="train")[:240]
    study = study_feature(vlm, sae, questions, FEATURE, read_grid().groupby("level").head(1))
    assert study.place in ("bystander", "contributor")
    assert study.family_place == "cause"
    assert study.test.recovery.value < 0.1
    assert study.family_patch.recovery.value > 0.8
    assert study.family_patch.reversals > 0.8 * study.test.n
    assert f"With its {len(study.family)} relatives it is a cause: jointly they recover" in place_lines(study)[2]


def test_a_study_of_an_older_version_names_no_place():
    assert place_lines(study_of()) == []
    assert any("Causal test on 40 banked flips" in line for line in conclusion(study_of()))


def test_published_figures_stand_beside_those_of_the_study():
    base = study_of()
    study = base.model_copy(update={"feature": 3818, "sae": "layer_17_width_16k_l0_medium"})
    table = study_tables(study)[0]
    rows = {(row[0].text, row[1].text): row[2].text for row in table.rows}
    assert ("recovery by the feature patch, mean over flips", "0.448 [0.401,\xa00.495]") in rows
    assert rows["flips restored", "23 of 158"] == rows["flips restored", "6 of 76"] == "4 of 40"
    assert rows["flips with its |delta| the largest of the layer", "37 of 76"] == "1 of 3"
    assert rows["questions with a flip, feature at zero", "10.8%"] == "–"
    assert not any("Published" in each.caption for each in study_tables(base))


def test_a_change_of_few_flips_is_said_to_be_traced_to_nothing():
    study = study_of()

    def said(traced):
        return [note for note in missing_numbers(study, [], 0.25, traced) if "The feature changes" in note]

    assert said(None) == said([f"p{k % 5}" for k in range(10)]) == []
    nothing = "The feature changes in none of the 40 banked flips, so there is no change to trace"
    assert said([]) == [f"{nothing} to other features or to tokens."]
    for traced, counted in ((["p1"] * 12, "12 of the 40 banked flips, of 1 patient:"), (list("abcdefghi"), "9 of")):
        (note,) = said(traced)
        assert f"changes in {counted}" in note
        assert note.endswith("too few to say from which features and tokens its change comes.")


def test_too_few_flips_place_nothing(vlm, sae):
    """The family of 3:139 is a cause, and on a few flips it is neither that nor a bystander."""
    few = study_feature(vlm, sae, load_questions(split="train")[:40], FEATURE, read_grid().groupby("level").head(1))
    assert 0 < few.test.n < LEAST_FLIPS
    assert few.family_patch.recovery.value > 0.8
    assert (few.place, few.family_place) == (None, None)
    assert any(f"{few.test.n} banked flips are too few to say what the feature is" in note for note in few.notes)
    assert place_lines(few) == []
