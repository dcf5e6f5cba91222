"""Answer, register and window patches on the embedded world: directions by hand in numpy, patches by plain hooks."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from test_find_features import plain_margin

from interp.causal.answer_patching import (
    LEAST_GAIN,
    TURNS,
    AnswerDirections,
    AnswerEdits,
    answer_directions,
    patch_answers,
    with_controls,
)
from interp.causal.layer_patching import PatchTarget, patch_layers, rerun_paraphrases
from interp.causal.register_patching import patch_register, register_direction, register_signs
from interp.causal.window_patching import patch_windows
from interp.images.decode import BLANK_IMAGE
from interp.measurement.margins import measure
from interp.measurement.residual_store import Residuals
from interp.measurement.suffix_rerun import SuffixRerun
from interp.model.load import load_vlm
from interp.paths import WORLD
from interp.questions.files import load_questions
from interp.questions.tables import pair_table, prompt_table
from interp.screening.flips import find_flips, sides
from interp.screening.image_swaps import swap_images

LAYERS = [0, 3, 5, 9]
WINDOW = (4, 5)


@pytest.fixture(scope="module")
def planted():
    return load_vlm(WORLD / "planted", "cpu", "float32")


@pytest.fixture(scope="module")
def prompts():
    return prompt_table([q for q in load_questions(WORLD / "questions.jsonl", split="train") if q.closed][:150])


@pytest.fixture(scope="module")
def given(planted, prompts):
    """All flips, two banked ones ready to be patched, and residuals of the prompts with their own and other images."""
    layers = sorted({layer + off for layer in (*LAYERS, *WINDOW) for off in (0, -1)} - {-1})
    measured = measure(planted, prompts, layers)
    own = Residuals(layers, measured.residuals.transpose(0, 1))
    flips = find_flips(prompts, pair_table(prompts), measured.margin, 0.25)
    bank = flips.take(flips.banked)
    two = bank.take(np.arange(len(bank.pairs)) < 2)
    rows, swapped = swap_images(prompts, set(prompts["patient"]), 200, 0)
    moved = Residuals(layers, measure(planted, swapped, layers).residuals.transpose(0, 1))
    runs = PatchTarget(two, rerun_paraphrases(planted, prompts, two))
    originals = SuffixRerun(planted, prompts.iloc[two.pairs["original"].to_numpy(np.int64)])
    return SimpleNamespace(flips=flips, two=two, own=own, rows=rows, moved=moved, target=runs, originals=originals)


@pytest.fixture(scope="module")
def plain(planted, prompts, given):
    """[2] the margins and residuals of each pair's original and paraphrase, by transformers alone."""
    rows = [[prompts.iloc[pair[side]] for side in ("original", "paraphrase")] for _, pair in given.two.pairs.iterrows()]
    return [[(row, *plain_margin(planted, row)) for row in pair] for pair in rows]


def by_image(given, layer):
    """[n, d_model]: differences of the final token's residual under the same words and two images."""
    return given.own.after(layer)[torch.from_numpy(given.rows)].float() - given.moved.after(layer).float()


def by_wording(given, layer):
    """[pairs, d_model]: differences under two wordings and the same image."""
    return given.own.shift([layer], *sides(given.flips.pairs))[:, 0]


def passed_by_hand(images, words):
    """[d_model, d_model]: the map that gives the answer part of a difference, from eigenvectors of a covariance."""
    x, w = (each.double().numpy() for each in (images, words))
    variance, vectors = np.linalg.eigh(x.T @ x / len(x))
    noise = np.mean((w**2).sum(1)) / w.shape[1]
    gain = variance.clip(min=0) / (variance.clip(min=0) + noise)
    gain[gain <= LEAST_GAIN] = 0
    return vectors * gain @ vectors.T


def recovered(planted, pair, layer, edit):
    """m(p') - m(p) [logits], positive towards m(q), when `edit` is added to the paraphrase by a hook."""
    (_, margin_q, _), (row, margin_p, seen_p) = pair
    after, _ = plain_margin(planted, row, layer, seen_p[layer] + edit)
    return (after - margin_p) * np.sign(margin_q - margin_p)


def difference(pair, layer):
    """[d_model]: the original's residual after a layer minus the paraphrase's; zero before layer 0."""
    (_, _, seen_q), (_, _, seen_p) = pair
    return seen_q[layer] - seen_p[layer] if layer >= 0 else torch.zeros_like(seen_q[0])


def test_the_answer_patch_by_numpy_and_plain_hooks(planted, given, plain):
    delta = given.own.shift(LAYERS, *sides(given.two.pairs))
    directions = [
        with_controls(answer_directions(by_image(given, layer), by_wording(given, layer)), layer) for layer in LAYERS
    ]
    found = patch_answers(given.target, delta, directions, LAYERS)
    edits = [torch.stack([each.part(delta[:, k]) for each in sets], 1) for k, sets in enumerate(directions)]
    for k, layer in enumerate(LAYERS):
        passed = torch.from_numpy(passed_by_hand(by_image(given, layer), by_wording(given, layer))).float()
        for i, pair in enumerate(plain):
            effect = recovered(planted, pair, layer, difference(pair, layer) @ passed)
            assert found.answer[i, k] == pytest.approx(effect, abs=1e-3), layer
            control = [recovered(planted, pair, layer, edits[k][i, 1 + turn]) for turn in range(TURNS)]
            assert found.random[i, k] == pytest.approx(np.mean(control), abs=1e-3), layer
    # The wordings differ at the final token from layer 0 on, but only the planted layers make another answer of it.
    size = np.abs(given.target.shift)
    assert (np.abs(found.answer[:, LAYERS.index(0)]) < 0.1 * size).all()
    assert (found.answer[:, LAYERS.index(5)] > 0.3 * size).all()
    assert (np.abs(found.random) < 0.2 * size[:, None]).all()


def test_the_register_patch_by_numpy_and_plain_hooks(planted, given, plain):
    signs = register_signs(given.flips.pairs)
    assert {-1.0, 1.0} <= set(signs)
    parts, by_hand = [], []
    for layer in LAYERS:
        mean = (by_wording(given, layer).double().numpy() * signs[:, None]).sum(0)
        by_hand.append(mean / np.linalg.norm(mean))
        direction = register_direction(by_wording(given, layer), signs)
        np.testing.assert_allclose(direction, by_hand[-1], atol=1e-5)
        delta = given.own.shift([layer], *sides(given.two.pairs))[:, 0]
        parts.append((delta @ direction)[:, None] * direction)
    found = patch_register(given.target, torch.stack(parts, dim=1), LAYERS, seed=0)
    for k, layer in enumerate(LAYERS):
        along = torch.from_numpy(by_hand[k]).float()
        for i, pair in enumerate(plain):
            effect = recovered(planted, pair, layer, (difference(pair, layer) @ along) * along)
            assert found.register[i, k] == pytest.approx(effect, abs=1e-3), layer
    # The planted gate reads the register below its layers.
    below = LAYERS.index(3)
    assert (found.register[:, below] > 0.5 * np.abs(given.target.shift)).all()
    assert (np.abs(found.random[:, below]) < 0.5 * found.register[:, below]).all()


def window_of(given, first, last):
    """float32 [2, d_model]: what layers first..last add to the difference between the wordings."""
    below, above = (given.own.shift([layer], *sides(given.two.pairs))[:, 0] for layer in (first - 1, last))
    return above - below


def test_the_window_patch_by_plain_hooks_in_both_directions(planted, given, plain):
    (found,) = patch_windows(given.target, given.originals, window_of(given, *WINDOW)[:, None], WINDOW[1:], seed=0)
    for i, pair in enumerate(plain):
        added = difference(pair, WINDOW[1]) - difference(pair, WINDOW[0] - 1)
        assert found.restored[i] == pytest.approx(recovered(planted, pair, WINDOW[1], added), abs=1e-3)
        (row, margin_q, seen_q), (_, margin_p, _) = pair
        broken, _ = plain_margin(planted, row, WINDOW[1], seen_q[WINDOW[1]] - added)
        assert found.broken[i] == pytest.approx((margin_q - broken) * np.sign(margin_q - margin_p), abs=1e-3)
    # What the two planted layers add is enough for the flips, and these need it. A random direction does neither.
    size = np.abs(given.target.shift)
    for effect, random in ((found.restored, found.random_restored), (found.broken, found.random_broken)):
        assert (effect > 0.4 * size).all()
        assert (np.abs(random) < 0.2 * size).all()


def test_windows_from_the_first_layer_are_residual_patches_and_read_at_the_end_direct_effects(given):
    after, below = (given.own.shift([layer + off for layer in LAYERS], *sides(given.two.pairs)) for off in (0, -1))
    layers = patch_layers(given.target, after, below, LAYERS, seed=0)
    for k, layer in enumerate(LAYERS):
        (whole,) = patch_windows(given.target, given.originals, after[:, k : k + 1], [layer], seed=0)
        np.testing.assert_allclose(whole.restored, layers.along_shift(layers.residual)[:, k], atol=1e-4)
        written = (after[:, k] - below[:, k])[:, None]
        (at_end,) = patch_windows(given.target, given.originals, written, [9], seed=0)
        np.testing.assert_allclose(at_end.restored, layers.along_shift(layers.write)[:, k], atol=1e-4)
    # The whole difference at the last layer turns either wording into the other.
    np.testing.assert_allclose(whole.restored, np.abs(given.target.shift), atol=1e-3)
    np.testing.assert_allclose(whole.broken, np.abs(given.target.shift), atol=1e-3)


def some_directions(gain):
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(16, len(gain), generator=generator))[0].T.contiguous()
    return AnswerDirections(basis, torch.tensor(gain)), torch.randn(5, 16, generator=generator)


def test_the_answer_part_is_linear_and_a_projection_only_for_gains_of_one():
    directions, x = some_directions([0.9, 0.5, 0.1])
    y = x.flip(0)
    torch.testing.assert_close(directions.part(2 * x - 3 * y), 2 * directions.part(x) - 3 * directions.part(y))
    assert not torch.allclose(directions.part(directions.part(x)), directions.part(x), atol=1e-2)
    whole, x = some_directions([1.0, 1.0])
    torch.testing.assert_close(whole.part(whole.part(x)), whole.part(x))
    torch.testing.assert_close(whole.part(whole.basis), whole.basis)


def test_turned_directions_have_the_same_norms_and_gains():
    directions, _ = some_directions([0.9, 0.5, 0.1])
    generator = torch.Generator().manual_seed(1)
    once, twice = directions.turned(generator), directions.turned(generator)
    for turned in (once, twice):
        torch.testing.assert_close(turned.basis @ turned.basis.T, torch.eye(3), atol=1e-6, rtol=0)
        assert torch.equal(turned.gain, directions.gain)
        sizes = torch.linalg.svdvals(turned.part(torch.eye(16)))
        torch.testing.assert_close(sizes[:3], directions.gain, atol=1e-6, rtol=0)
    assert (once.basis @ directions.basis.T).abs().max() < 0.9
    assert not torch.allclose(once.basis, twice.basis)


def test_directions_that_images_hardly_move_are_left_out():
    # Images move one axis by 3 and one by .01; wordings differ by 1 in each of 4 axes.
    images = torch.zeros(2, 4)
    images[0, 1], images[1, 2] = 3.0, 0.01
    found = answer_directions(images, torch.ones(7, 4))
    assert len(found.gain) == 1
    # The variance is 9 / 2, the noise 4 / 4.
    assert float(found.gain[0]) == pytest.approx(4.5 / 5.5)
    torch.testing.assert_close(found.part(torch.ones(1, 4)), torch.tensor([[0.0, 4.5 / 5.5, 0.0, 0.0]]))


@pytest.mark.parametrize(("images", "words"), [(0, 3), (3, 0), (0, 0)])
def test_without_other_images_or_wordings_the_answer_part_is_defined(images, words):
    found = answer_directions(torch.ones(images, 4), torch.ones(words, 4))
    delta = torch.tensor([[1.0], [-2.0]]).expand(-1, 4)
    edits = torch.stack([each.part(delta) for each in with_controls(found, seed=0)], 1)
    assert edits.shape == (2, 1 + TURNS, 4)
    assert torch.isfinite(edits).all()
    # What lies along a direction of images passes wholly if no wording disturbs it; without images nothing passes.
    torch.testing.assert_close(edits[:, 0], delta if images else torch.zeros(2, 4))


def test_images_that_move_nothing_have_no_answer_part():
    found = answer_directions(torch.zeros(5, 4), torch.ones(3, 4))
    assert len(found.gain) == 0
    assert not any(each.part(torch.ones(2, 4)).any() for each in with_controls(found, seed=0))


def test_edits_are_made_where_they_are_needed():
    generator = torch.Generator().manual_seed(0)
    delta, images = torch.randn(5, 2, 6, generator=generator), torch.randn(2, 9, 6, generator=generator)
    directions = [with_controls(answer_directions(each, torch.ones(3, 6)), k) for k, each in enumerate(images)]
    edits = AnswerEdits(delta, directions)
    assert edits.shape == (5, 2 * (1 + TURNS), 6)
    found = edits.of(torch.tensor([4, 0]), torch.tensor([0, 1 + TURNS, 2, 2 * TURNS + 1]), torch.device("cpu"))
    for place, (layer, which) in enumerate([(0, 0), (1, 0), (0, 2), (1, TURNS)]):
        torch.testing.assert_close(found[:, place], directions[layer][which].part(delta[[4, 0], layer]))
    # What a finished sweep is known by changes with each of them.
    assert {"delta", "basis 0", "gain 0", "basis 1", "gain 1"} == set(edits.tensors())


def test_register_signs_by_hand():
    pairs = pd.DataFrame({"registers": ["formal-casual", "casual-formal", "formal-formal", None, np.nan, ""]})
    assert register_signs(pairs).tolist() == [1.0, -1.0, 0.0, 0.0, 0.0, 0.0]
    by_wording = torch.tensor([[3.0, 1.0], [-1.0, 1.0], [9.0, 9.0], [9.0, 9.0], [9.0, 9.0], [9.0, 9.0]])
    # (3, 1) - (-1, 1) = (4, 0).
    assert register_direction(by_wording, register_signs(pairs)).tolist() == [1.0, 0.0]
    assert register_direction(torch.zeros(6, 2), register_signs(pairs)).tolist() == [0.0, 0.0]


def table_of(images):
    """A prompt table with two questions of three wordings about each image; `images` maps images to patients."""
    rows = [(image, patient, f"{k}?") for image, patient in images.items() for k in range(6)]
    return pd.DataFrame(rows, columns=["image", "patient", "text"])


def test_every_wording_of_an_image_gets_the_same_image_of_another_patient():
    owner = {f"{patient}{k}.png": patient for patient in "abcde" for k in range(2)}
    prompts = table_of(owner)
    rows, swapped = swap_images(prompts, {"a", "b", "c"}, 1000, seed=3)
    assert sorted(rows) == np.flatnonzero(prompts["patient"].isin(["a", "b", "c"])).tolist()
    before = prompts.iloc[rows].reset_index(drop=True)
    pd.testing.assert_frame_equal(swapped.drop(columns="image"), before.drop(columns="image"))
    others = swapped["image"].groupby(before["image"]).agg(["nunique", "first"])
    assert (others["nunique"] == 1).all()
    assert len(others) == 6
    assert all(owner[other] != owner[image] for image, other in others["first"].items())
    # Not the images of the patients that were left out.
    assert set(others["first"].map(owner)) <= {"a", "b", "c"}
    again = swap_images(prompts, {"c", "b", "a"}, 1000, seed=3)
    assert (again[0] == rows).all()
    assert (again[1]["image"] == swapped["image"]).all()
    assert {tuple(swap_images(prompts, {"a", "b", "c"}, 1000, seed)[1]["image"]) for seed in range(5)} != {
        tuple(swapped["image"])
    }


def test_images_are_added_whole_until_there_are_enough_prompts():
    prompts = table_of({"a.png": "a", "b.png": "b", "c.png": "c"})
    for count, expected in ((1, 6), (6, 6), (7, 12), (99, 18), (0, 0)):
        rows, swapped = swap_images(prompts, set("abc"), count, seed=0)
        assert len(rows) == len(swapped) == expected
        assert (prompts.iloc[rows].groupby("image").size() == 6).all()


def test_the_only_patient_is_shown_a_blank_image():
    prompts = table_of({"a0.png": "a", "a1.png": "a", "b.png": "b"})
    rows, swapped = swap_images(prompts, {"a"}, 100, seed=0)
    assert len(rows) == 12
    assert set(swapped["image"]) == {BLANK_IMAGE}
    rows, swapped = swap_images(prompts, set(), 100, seed=0)
    assert len(rows) == len(swapped) == 0
    assert list(swapped.columns) == list(prompts.columns)
