"""Edges of a feature, against plain transformers hooks."""

import numpy as np
import pytest
from test_find_features import plain_margin

from interp.causal.edges import EARLIER, LATER, feature_edges
from interp.measurement.margins import measure
from interp.model.load import load_vlm
from interp.paths import WORLD
from interp.questions.files import load_questions
from interp.questions.tables import pair_table, prompt_table
from interp.saes.locate import locate_saes
from interp.saes.sae import load_sae
from interp.screening.flips import find_flips, questions_that_can_flip

LAYER, FEATURE, LAYERS = 3, 139, [1, 2, 3, 5]


@pytest.fixture(scope="module")
def vlm():
    return load_vlm(WORLD / "planted", "cpu", "float32")


@pytest.fixture(scope="module")
def saes():
    located = locate_saes(WORLD / "saes")
    return {layer: load_sae(located[layer], layer, 128) for layer in LAYERS}


@pytest.fixture(scope="module")
def prompts():
    return prompt_table(questions_that_can_flip(load_questions(split="train"))[:100])


@pytest.fixture(scope="module")
def flips(vlm, prompts):
    found = find_flips(prompts, pair_table(prompts), measure(vlm, prompts).margin, 0.25)
    banked = found.take(found.banked)
    return banked.take(np.arange(len(banked.pairs)) < 6)


@pytest.fixture(scope="module")
def edges(vlm, prompts, flips, saes):
    return feature_edges(vlm, prompts, flips, saes.__getitem__, LAYERS, saes[LAYER], FEATURE, seed=0)


@pytest.fixture(scope="module")
def plain(vlm, prompts, flips):
    """What both wordings of every pair leave in the residual stream, by transformers alone."""
    return [
        tuple(plain_margin(vlm, prompts.iloc[pair[side]])[1] for side in ("original", "paraphrase"))
        for _, pair in flips.pairs.iterrows()
    ]


def undone(vlm, prompts, flips, saes, plain, source, target):
    """Share of the target's change that goes back when the source's change is undone, by plain hooks."""
    back, whole = 0.0, 0.0
    for (_, pair), (q, p) in zip(flips.pairs.iterrows(), plain, strict=True):
        sae, there = saes[source[0]], saes[target[0]]
        change = (sae.encode(q[source[0]]) - sae.encode(p[source[0]]))[source[1]]
        moved = p[source[0]] + change * sae.w_dec[source[1]]
        _, seen = plain_margin(vlm, prompts.iloc[pair["paraphrase"]], source[0], moved)
        before, after, patched = (float(there.encode(x[target[0]])[target[1]]) for x in (q, p, seen))
        back += (patched - after) * np.sign(before - after)
        whole += abs(before - after)
    return back / whole


def test_the_edges_are_those_of_exact_patches(vlm, prompts, flips, saes, plain, edges):
    before = [edge for edge in edges if edge.target == (LAYER, FEATURE)]
    after = [edge for edge in edges if edge.source == (LAYER, FEATURE)]
    assert len(before) == EARLIER
    assert len(after) == LATER
    assert {edge.source[0] for edge in before} <= {1, 2}
    assert {edge.target[0] for edge in after} == {5}
    for edge in [*before[:2], before[-1], *after[:2]]:
        expected = undone(vlm, prompts, flips, saes, plain, edge.source, edge.target)
        assert edge.undone.value == pytest.approx(expected, abs=1e-3)


def test_the_gradient_proposes_features_that_matter(edges):
    """The strongest earlier feature is predicted to be strong, and predictions go with exact patches."""
    before = [edge for edge in edges if edge.target == (LAYER, FEATURE)]
    exact, predicted = ([getattr(edge, name) for edge in before] for name in ("undone", "predicted"))
    values = [each.value for each in exact]
    assert values == sorted(values, reverse=True)
    assert values[0] > 0.1
    assert np.corrcoef(values, predicted)[0, 1] > 0.5
    assert all(np.isnan(edge.predicted) for edge in edges if edge.source == (LAYER, FEATURE))


def test_a_feature_of_the_last_layer_has_no_later_ones(vlm, prompts, flips, saes):
    found = feature_edges(vlm, prompts, flips, saes.__getitem__, [3, 5], saes[5], 466, seed=0)
    assert {edge.target for edge in found} == {(5, 466)}


def test_a_feature_that_does_not_move_has_no_edges(vlm, prompts, flips, saes):
    """2:2 is active on no wording, so its edges would lead to features in the order of their indices."""
    assert feature_edges(vlm, prompts, flips, saes.__getitem__, LAYERS, saes[2], 2, seed=0) == []
