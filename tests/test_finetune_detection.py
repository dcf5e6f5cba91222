"""Detectors of flips: by hand, by slow loops, by other implementations, and on nulls where nothing is to be found."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from finetune_world import make_world, plain_logits
from layers_files import layers_document
from scipy import stats
from test_finetune_measures import answered, asked

from finetune.evaluation.feature_activations import feature_activations, found_features, load_feature_saes
from finetune.evaluation.flip_detection import (
    COVERAGES,
    FOLDS,
    abstentions,
    area_under_risk,
    auc_interval,
    cross_fitted,
    detection_table,
    events_answered,
    flip_detection,
    patient_folds,
    risk_coverage,
)
from finetune.evaluation.logistic import fit_logistic
from interp.model.load import load_vlm
from interp.questions.files import load_questions
from interp.questions.tables import prompt_table
from interp.runtime.errors import InputError
from interp.saes.sae import Sae
from interp.schemas.evaluation import FlipDetection, FlipDetector
from interp.schemas.record import Interval, interval_of
from interp.views.tables import detection as detection_view


def test_wordings_that_a_detector_reads_are_not_among_those_it_foretells():
    three = asked(["yes", "no", "yes"], paraphrases=3)
    margin = np.array([2, -1, 3, 4, -3, -1, -2, 1, -1, -5, -6, -7], float)
    found = detection_table(three.prompts, three.pairs, margin, 0)
    # The first flips at its first paraphrase, the second at its third, the last at none, and its answer is wrong.
    assert found["flips"].tolist() == [True, True, False]
    assert found["right"].tolist() == [1, 1, 0]
    assert found["size"].tolist() == [2, 3, 1]
    assert found["spread"].isna().all()
    found = detection_table(three.prompts, three.pairs, margin, 2)
    assert found["flips"].tolist() == [False, True, False]
    assert found["spread"].tolist() == pytest.approx([np.std([2, -1, 3], ddof=1), 1, np.std([-1, -5, -6], ddof=1)])
    assert found["mean_size"].tolist() == pytest.approx([4 / 3, 2, 4])
    assert len(detection_table(three.prompts, three.pairs, margin, 3)) == 0
    shuffled = three.pairs.sample(frac=1, random_state=1).sort_values("paraphrase", kind="stable")
    mixed = shuffled.sort_values(by="paraphrase", key=lambda row: row % 4, kind="stable")
    pd.testing.assert_frame_equal(detection_table(three.prompts, mixed, margin, 2), found)


def test_a_wording_that_repeats_one_that_was_read_is_not_foretold():
    """As a file may repeat paraphrases, and --normalize gives several wordings one form."""
    two = asked(["yes", "yes"], paraphrases=3)
    # The third paraphrase of the first question is its second again; that of the second question is new.
    margin = np.array([-1, -1, 1, 1.00000001, -1, -1, 1, 2], float)
    found = detection_table(two.prompts, two.pairs, margin, 2)
    assert found[["question", "flips"]].values.tolist() == [[1, True]]
    assert detection_table(two.prompts, two.pairs, margin, 0)["flips"].tolist() == [True, True]


def test_questions_with_different_numbers_of_paraphrases():
    two, four = asked(["yes"], paraphrases=1), asked(["yes", "no"], paraphrases=3)
    keep = four.prompts["question"].eq(1) | four.prompts["variant"].lt(2)
    prompts = four.prompts[keep].reset_index(drop=True)
    from interp.questions.tables import pair_table

    margin = np.array([1, -1, 2, 3, 4, -5], float)
    found = detection_table(prompts, pair_table(prompts), margin, 2)
    assert found[["question", "flips", "size"]].values.tolist() == [[1, True, 2]]
    assert len(detection_table(two.prompts, two.pairs, np.array([1.0, 2.0]), 2)) == 0


def test_risk_over_coverage_by_hand_with_ties():
    score, event = np.array([0.3, 0.1, 0.2, 0.2]), np.array([1.0, 0, 1, 0])
    # One of the two questions of score .2 flips, so that answering one of them has half a flip.
    assert events_answered(score, event, np.array([1, 2, 3, 4])).tolist() == [0, 0.5, 1, 2]
    assert area_under_risk(score, event) == pytest.approx((0 + 0.5 / 2 + 1 / 3 + 2 / 4) / 4)
    curve = {p.coverage: p for p in risk_coverage(score, event > 0, np.array([0, 1, np.nan, 1]))}
    assert (curve[0.5].flip_rate, curve[1.0].flip_rate) == (0.25, 0.5)
    # Of the three questions with known answers, the two surest are right.
    assert (curve[0.65].accuracy, curve[1.0].accuracy) == (1, pytest.approx(2 / 3, abs=1e-5))


def test_the_area_under_risk_is_the_mean_over_orders_of_the_ties():
    rng = np.random.default_rng(0)
    score, event = rng.integers(0, 4, 12).astype(float), (rng.random(12) < 0.4).astype(float)
    areas = []
    for _ in range(4000):
        order = np.lexsort((rng.random(12), score))
        areas.append((np.cumsum(event[order]) / np.arange(1, 13)).mean())
    assert area_under_risk(score, event) == pytest.approx(np.mean(areas), abs=4 * np.std(areas) / 4000**0.5)


def test_the_auc_of_a_detector_is_the_mann_whitney_statistic():
    rng = np.random.default_rng(1)
    event, patients = rng.random(200) < 0.3, [f"p{k // 4}" for k in range(200)]
    score = np.round(rng.normal(event * 1.0, 1), 1)
    found = auc_interval(score, event, patients, 0)
    u = stats.mannwhitneyu(score[event], score[~event]).statistic
    assert found.value == pytest.approx(u / (event.sum() * (~event).sum()))
    # The same interval by drawing patients one by one.
    rows = [np.arange(4 * k, 4 * k + 4) for k in range(50)]
    samples = []
    for _ in range(1000):
        drawn = np.concatenate([rows[k] for k in rng.integers(50, size=50)])
        e, s = event[drawn], score[drawn]
        samples.append(stats.mannwhitneyu(s[e], s[~e]).statistic / (e.sum() * (~e).sum()))
    assert (found.low, found.high) == pytest.approx(np.percentile(samples, [2.5, 97.5]), abs=0.015)
    assert np.isnan(auc_interval(score, event & False, patients, 0).value)


@pytest.mark.parametrize(
    ("flips", "shown"), [(1, "1.00, too few (1 flips)"), (9, "1.00, too few (9 flips)"), (10, "1.00 [")]
)
def test_an_auc_of_few_flips_has_no_interval(flips, shown):
    """One flip that scores highest gives 1.00 in every resampling that has it: an interval without a width."""
    event = np.arange(40) < flips
    found = auc_interval(np.where(event, 2.0, 1.0), event, list(range(40)), 0)
    assert found.value == 1
    assert np.isnan(found.low) == np.isnan(found.high) == (flips < 10)
    detector = FlipDetector(name="margin", passes=1, auc=interval_of(found), risk_area=0.0, curve=[])
    rate = Interval(value=flips / 40, low=None, high=None)
    flipped = FlipDetection(
        arm="base", probes=0, questions=40, patients=40, flip_rate=rate, detectors=[detector], abstention=[]
    )
    table = detection_view.detection_table(SimpleNamespace(detection=[flipped], detector_features=[]))
    assert any(cell.text.startswith(shown) for cell in table.rows[0])


def test_logistic_regression_is_that_of_statsmodels_and_a_ridge_shrinks_it_as_newton_does():
    from statsmodels.api import Logit, add_constant

    rng = np.random.default_rng(2)
    columns = rng.normal(size=(300, 3))
    event = rng.random(300) < 1 / (1 + np.exp(-(columns @ [1.0, -0.5, 0] - 1)))
    plain = Logit(event.astype(float), add_constant(columns)).fit(disp=0).params
    np.testing.assert_allclose(fit_logistic(columns, event, ridge=0), plain, atol=1e-4)
    design, b = np.column_stack([np.ones(300), columns]), np.zeros(4)
    penalty = np.diag([0.0, 5, 5, 5])
    for _ in range(50):
        p = 1 / (1 + np.exp(-design @ b))
        hessian = (design * (p * (1 - p))[:, None]).T @ design + penalty
        b -= np.linalg.solve(hessian, design.T @ (p - event) + penalty @ b)
    np.testing.assert_allclose(fit_logistic(columns, event, ridge=5), b, atol=1e-5)
    separable = fit_logistic(np.array([[-1.0], [-1], [1], [1]]), np.array([False, False, True, True]))
    assert np.isfinite(separable).all()


def test_a_fitted_score_never_saw_the_patient_it_is_for():
    rng = np.random.default_rng(3)
    patients = [f"p{k // 3}" for k in range(240)]
    folds = patient_folds(patients, 0)
    assert all(len(set(folds[3 * k : 3 * k + 3])) == 1 for k in range(80))
    assert np.bincount(folds).tolist() == [48] * FOLDS
    columns, event = rng.normal(size=(240, 2)), rng.random(240) < 0.4
    found = cross_fitted(columns, event, folds)
    other = np.where(folds == 2, ~event, event)
    np.testing.assert_array_equal(found[folds == 2], cross_fitted(columns, other, folds)[folds == 2])
    assert not np.allclose(found[folds == 1], cross_fitted(columns, other, folds)[folds == 1])
    # A fold by hand: the log odds without the intercept, on columns in units of the other folds.
    others = folds != 4
    z = (columns - columns[others].mean(0)) / columns[others].std(0)
    np.testing.assert_allclose(found[~others], z[~others] @ fit_logistic(z[others], event[others])[1:])


def test_features_that_say_nothing_foretell_nothing():
    """With few flips, fitting folds apart easily ranks those with most of them lowest."""
    rng, found = np.random.default_rng(4), []
    for seed in range(60):
        patients = [f"p{k // 2}" for k in range(300)]
        event = rng.random(300) < 0.06
        score = cross_fitted(rng.normal(size=(300, 3)), event, patient_folds(patients, seed))
        if np.isfinite(score).all():
            found.append(auc_interval(score, event, patients, 0).value)
    assert len(found) > 30
    assert np.mean(found) == pytest.approx(0.5, abs=4 * np.std(found) / len(found) ** 0.5)
    assert np.isnan(cross_fitted(np.ones((40, 1)), np.arange(40) < 3, np.arange(40) % FOLDS)).all()


def test_features_that_foretell_flips_are_found():
    rng = np.random.default_rng(5)
    many = asked(rng.choice(["yes", "no"], 200), paraphrases=2)
    flips = rng.random(200) < 0.3
    margin = np.repeat(rng.normal(0, 1, 200), 3)
    margin[1::3][flips] *= -1
    activation = np.full((600, 2), np.nan)
    activation[::3] = rng.normal(size=(200, 2)) + np.outer(flips, [2.0, 0])
    (found,) = flip_detection(many.prompts, many.pairs, answered(many, margin), "arm", activation, 0)
    by_name = {each.name: each for each in found.detectors}
    assert list(by_name) == ["margin", "features", "features and margin"]
    assert by_name["features"].auc.low > 0.8
    # Flips do not depend on the margin here.
    assert by_name["margin"].auc.low < 0.5 < by_name["margin"].auc.high
    assert found.flip_rate.value == pytest.approx(flips.mean(), abs=1e-5)
    assert [each.passes for each in found.detectors] == [1, 1, 1]


def test_abstention_by_a_slow_loop_with_thresholds_from_other_patients():
    rng = np.random.default_rng(6)
    size = rng.exponential(size=90)
    table = pd.DataFrame(
        {
            "patient": [f"p{k // 2}" for k in range(90)],
            "size": size,
            "flips": rng.random(90) < np.exp(-size),
            "right": np.where(np.arange(90) % 10 == 0, np.nan, rng.random(90) < 0.5 + size / 10),
        }
    )
    folds = patient_folds(table["patient"], 1)
    for row, aim in zip(abstentions(table, 1), COVERAGES, strict=True):
        answered_rows = []
        for k in range(90):
            others = sorted(size[folds != folds[k]])
            answered_rows.append(aim == 1 or size[k] >= np.quantile(others, 1 - aim))
        inside = table[answered_rows]
        wrong, flips = table["right"] == 0, table["flips"]
        assert row.answered.value == pytest.approx(len(inside) / 90, abs=1e-5)
        assert row.flip_rate.value == pytest.approx(inside["flips"].mean(), abs=1e-5)
        assert row.accuracy.value == pytest.approx(inside["right"].mean(), abs=1e-5)
        withheld = ~np.array(answered_rows)
        assert row.flips_withheld.value == pytest.approx(withheld[flips].mean(), abs=1e-5)
        assert row.errors_withheld.value == pytest.approx(withheld[wrong].mean(), abs=1e-5)
        assert row.threshold == pytest.approx(0 if aim == 1 else np.quantile(size, 1 - aim), rel=1e-5)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    torch.set_num_threads(1)
    world = make_world(tmp_path_factory.mktemp("detection") / "world", patients=6)
    return load_vlm(world.model, "cpu", "float32"), load_questions(world.questions)


def random_sae(layer, d_model):
    w = torch.randn(40, d_model, generator=torch.Generator().manual_seed(layer))
    zero = torch.zeros(40)
    return Sae(layer, f"tiny {layer}", w.T.contiguous(), zero, w, torch.zeros(d_model), zero)


def test_activations_are_those_of_plain_forwards(tiny):
    vlm, questions = tiny
    prompts = prompt_table(questions)
    saes = [(random_sae(layer, vlm.d_model), features) for layer, features in ((0, [3]), (1, [7, 2]))]
    found = feature_activations(vlm, prompts, saes)
    captured = {}
    hooks = [
        vlm.layers[sae.layer].register_forward_hook(
            lambda module, inputs, output, layer=sae.layer: captured.update({layer: output[0, -1]})
        )
        for sae, _ in saes
    ]
    with torch.no_grad():
        for row, prompt in enumerate(prompts.itertuples()):
            if prompt.variant or not prompt.closed:
                assert np.isnan(found[row]).all()
                continue
            plain_logits(vlm.model, vlm.processor, prompt.image, prompt.text)
            by_hand = [(captured[sae.layer] @ sae.w_enc[:, f]).clamp(min=0).item() for sae, fs in saes for f in fs]
            np.testing.assert_allclose(found[row], by_hand, atol=1e-4)
    for hook in hooks:
        hook.remove()
    assert np.nanmax(found) > 0


def test_features_come_from_the_file_of_a_search(tmp_path):
    document = layers_document("tiny", 3, 32)
    path = tmp_path / "layers.json"
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match="no features"):
        found_features(path, "test")
    some = {"value": 0.5, "low": 0.25, "high": 0.75}
    names = ["flip_auc", "flip_p", "held_out_auc", "delta_on_flips", "delta_otherwise", "margin_r", "density"]
    names += ["mean_activation", "register_auc", "attribution", "path_attribution"]
    entry = dict.fromkeys(names) | {"causal": None}
    causal = dict.fromkeys(["random", "matched", "swapped", "p", "p_random", "unflipped_changed"], 0.1)
    causal |= {"n": 3, "recovery": some, "net": some, "reversals": 0, "random_reversals": 0.0, "dose": [0.1] * 4}
    document["features"] = [entry | {"layer": 2, "feature": 7, "causal": causal}]
    path.write_text(json.dumps(document))
    assert found_features(path, "test") == [(2, 7)]
    with pytest.raises(InputError, match="chosen on the split 'train', so on patients of this evaluation"):
        found_features(path, "train")


def test_features_that_model_or_file_do_not_have_are_refused(tiny, tmp_path):
    vlm, _ = tiny
    with pytest.raises(InputError, match="layer 9"):
        load_feature_saes(vlm, [(9, 0)], {})
    with pytest.raises(InputError):
        found_features(tmp_path / "layers.json", "test")
