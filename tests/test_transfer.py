"""SAE transfer: numbers worked by hand, residuals of plain transformers, verdicts on known models."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import ttest_1samp
from test_engine import plain_inputs
from typer.testing import CliRunner

from interp.cli.app import app
from interp.cli.transfer_check import PROMPTS
from interp.images.decode import NO_IMAGE, open_image
from interp.measurement.margins import measure, text_residuals
from interp.model.load import load_vlm
from interp.paths import WORLD
from interp.questions.files import load_questions
from interp.runtime.errors import InputError
from interp.saes.locate import locate_saes
from interp.saes.reconstruction import Reconstruction, feature_drift, judge_transfer, reconstruct, summarize
from interp.saes.sae import Sae, load_sae
from interp.schemas.layers import read_layers
from interp.screening.transfer import question_prompts, text_prompts, transfer_check

TEXTS = ["Is there a nodule?", "Where do you see the shadow on the lung?", "Got fluid?"]


@pytest.fixture(scope="module")
def tiny(tiny_model):
    return load_vlm(tiny_model, "cpu", "float32")


@pytest.fixture(scope="module")
def models():
    return {name: load_vlm(WORLD / name, "cpu", "float32") for name in ("base", "planted")}


@pytest.fixture(scope="module")
def checked(models):
    kinds = {
        "questions": question_prompts(load_questions(WORLD / "questions.jsonl", split="test"), 60),
        "general": text_prompts(PROMPTS / "general.txt", 60),
    }
    saes = locate_saes(WORLD / "saes")
    return {name: transfer_check(vlm, saes, kinds, list(saes), models["base"]) for name, vlm in models.items()}


def plain_text_run(vlm, inputs):
    """Every layer's output at every token, and the last logits, from the untouched model."""
    outputs = {}
    handles = [
        module.register_forward_hook(lambda module, inputs, output, i=i: outputs.__setitem__(i, output[0]))
        for i, module in enumerate(vlm.layers)
    ]
    with torch.no_grad():
        logits = vlm.model(**inputs).logits[0, -1]
    for handle in handles:
        handle.remove()
    return torch.stack([outputs[i] for i in range(vlm.n_layers)], 1), logits


def text_inputs(vlm, text):
    messages = [{"role": "user", "content": [{"type": "text", "text": text}]}]
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    return vlm.processor.apply_chat_template(messages, **options)


@pytest.mark.parametrize("with_image", [True, False])
def test_text_residuals_are_those_of_the_plain_model(tiny, own_data, with_image):
    image = str(own_data / "images" / "0.png") if with_image else NO_IMAGE
    prompts = pd.DataFrame({"image": image, "text": TEXTS, "closed": True})
    residuals, owner = text_residuals(tiny, prompts, [0, 3], batch_tokens=60)
    inputs = [plain_inputs(tiny, open_image(image), t) if with_image else text_inputs(tiny, t) for t in TEXTS]
    ids = [i["input_ids"][0].tolist() for i in inputs]
    shared = next(k for k in range(99) if len({tuple(i[: k + 1]) for i in ids}) > 1)
    for row, (tokens, given) in enumerate(zip(ids, inputs, strict=True)):
        expected, _ = plain_text_run(tiny, given)
        mine = residuals[owner == row]
        assert len(mine) == len(tokens) - shared
        torch.testing.assert_close(mine, expected[shared:, [0, 3]], rtol=1e-4, atol=1e-4)


def test_margins_without_an_image_are_those_of_the_plain_model(tiny, own_data):
    texts = [*TEXTS, TEXTS[0]]
    images = [NO_IMAGE, NO_IMAGE, NO_IMAGE, str(own_data / "images" / "0.png")]
    margin = measure(tiny, pd.DataFrame({"image": images, "text": texts, "closed": True})).margin
    for i in range(3):
        _, logits = plain_text_run(tiny, text_inputs(tiny, texts[i]))
        yes, no = (logits[ids].logsumexp(0) for ids in tiny.answers)
        assert margin[i] == pytest.approx(float(yes - no), abs=1e-4)
    assert margin[3] != pytest.approx(float(margin[0]), abs=1e-3)


def test_reconstruction_by_hand():
    eye, zero = torch.eye(2), torch.zeros(2)
    sae = Sae(0, "hand", w_enc=eye, b_enc=zero, w_dec=eye, b_dec=zero, threshold=zero)
    # A ReLU loses the -3 of the third point; the mean is (2, -1).
    found = reconstruct(sae, torch.tensor([[1.0, 0.0], [3.0, 0.0], [2.0, -3.0]]), chunk=2)
    assert found.error.tolist() == [0, 0, 9]
    assert found.total.tolist() == [2, 2, 4]
    assert found.active.tolist() == [1, 1, 1]
    assert found.mean.tolist() == [2.0, 0.0]
    assert summarize(found) == pytest.approx((9 / 8, -1 / 8, 1.0, 0.5))


def rebuilt(error, total):
    return Reconstruction(np.array(error, float), np.array(total, float), np.ones(len(error), int), torch.ones(3))


def test_the_test_is_a_one_sided_t_test_over_clusters():
    rng = np.random.default_rng(0)
    total = rng.uniform(5, 15, 40)
    error = total * rng.normal(0.04, 0.01, 40)
    clusters = [i // 2 for i in range(40)]
    judged = judge_transfer(rebuilt(error, total), clusters)
    surplus = (0.05 * total - error).reshape(20, 2).sum(1)
    assert judged.p == pytest.approx(ttest_1samp(surplus, 0, alternative="greater").pvalue)
    assert judged.r2.value == pytest.approx(1 - error.sum() / total.sum())
    assert judged.r2.low < judged.r2.value < judged.r2.high
    assert judged.verdict == "pass"


@pytest.mark.parametrize(("unexplained", "verdict"), [(0.03, "pass"), (0.05, "unclear"), (0.07, "fail")])
def test_verdicts(unexplained, verdict):
    noise = np.tile([-0.02, 0.02], 50)
    assert judge_transfer(rebuilt(unexplained + noise, np.ones(100)), range(100)).verdict == verdict


def test_drift_by_hand():
    def with_mean(*mean):
        return rebuilt([1], [1])._replace(mean=torch.tensor(mean))

    assert feature_drift(with_mean(1.0, 2.0, 0.0), with_mean(2.0, 4.0, 0.0)) == pytest.approx(0, abs=1e-12)
    assert feature_drift(with_mean(1.0, 0.0, 0.0), with_mean(0.0, 3.0, 0.0)) == pytest.approx(1)
    assert feature_drift(with_mean(1.0, 0.0, 0.0), with_mean(1.0, 1.0, 0.0)) == pytest.approx(1 - 0.5**0.5)


def test_the_numbers_are_those_of_the_saes_on_plain_residuals(checked, models):
    vlm, (layer, path) = models["planted"], (6, locate_saes(WORLD / "saes")[6])
    texts = (PROMPTS / "general.txt").read_text().splitlines()[:60]
    inputs = [text_inputs(vlm, text) for text in texts]
    ids = [i["input_ids"][0].tolist() for i in inputs]
    start = next(k for k in range(99) if len({tuple(i[: k + 1]) for i in ids}) > 1)
    x = torch.cat([plain_text_run(vlm, given)[0][start:, layer] for given in inputs])
    sae = load_sae(path, layer, vlm.d_model)
    f = torch.relu((x @ sae.w_enc) + sae.b_enc)
    f = torch.where((x @ sae.w_enc) + sae.b_enc > sae.threshold, f, 0.0)
    lost = (x - f @ sae.w_dec - sae.b_dec).pow(2).sum() / (x - x.mean(0)).pow(2).sum()
    table = checked["planted"].table
    row = table[(table["prompts"] == "general") & (table["layer"] == layer)].iloc[0]
    assert row["tokens"] == len(x)
    assert row["fvu"] == pytest.approx(float(lost), rel=1e-4)
    assert row["l0"] == pytest.approx(float((f > 0).sum(1).float().mean()), rel=1e-4)
    assert row["dead"] == pytest.approx(float((~(f > 0).any(0)).float().mean()), abs=1e-3)


def test_the_saes_fit_the_base_and_not_the_planted_model_after_its_gate(checked, world):
    first = world["gate_layers"][0]
    assert checked["base"].failed("questions") == []
    failed = checked["planted"].failed("questions")
    assert failed
    assert min(failed) >= first
    table = checked["planted"].table
    drift = table[table["prompts"] == "questions"].set_index("layer")["drift"]
    # Before the gate the planted model equals the base to the last bit.
    assert drift[drift.index < first].max() < 1e-9
    assert drift[drift.index >= first].min() > 1e-3


def test_prompts_unlike_the_training_data_fail(checked):
    # The base and its SAEs were trained on nothing but questions on radiographs.
    assert checked["base"].failed("general") == list(range(10))


def test_a_reference_of_another_size_is_refused(models, tiny):
    prompts = {"general": text_prompts(PROMPTS / "general.txt", 3)}
    with pytest.raises(InputError, match="has 4 layers of width 32, but planted has 10 of 128"):
        transfer_check(models["planted"], locate_saes(WORLD / "saes"), prompts, [0], tiny)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"one prompt\n\n", "1 prompts, expected at least 2"), (b"\xff\xfe", "not UTF-8"), (None, "no such file")],
)
def test_a_bad_prompt_file_is_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "p.txt").write_bytes(content)
    with pytest.raises(InputError, match=f"p.txt: {message}"):
        text_prompts(tmp_path / "p.txt", 10)


def test_the_shipped_prompts_are_a_hundred_each():
    lines = {name: (PROMPTS / f"{name}.txt").read_text().splitlines() for name in ("medical", "general")}
    assert all(len(set(texts)) == 100 for texts in lines.values())
    assert not set(lines["medical"]) & set(lines["general"])


def test_the_command(tmp_path):
    out = tmp_path / "transfer.json"
    arguments = ["transfer-check", "--limit", "40", "--layers", "3-6", "--out", str(out), "--device", "cpu"]
    said = CliRunner().invoke(app, [*arguments, "--reference", str(WORLD / "base")])
    assert said.exit_code == 0
    assert "questions: the SAEs of layers 5-6 explain less than 95%" in said.output
    content = json.loads(out.read_text())
    assert content["reference"] == "base"
    assert len(content["layers"]) == 12
    assert "lung" not in out.read_text()
    assert "already exists" in str(CliRunner().invoke(app, arguments).exception)


def test_an_older_layers_json_is_read(tmp_path):
    run = CliRunner().invoke(app, ["find-features", "--limit", "60", "--layers", "4-5", "--out", str(tmp_path)])
    assert run.exit_code in (0, 3)
    content = json.loads((tmp_path / "layers.json").read_text())
    for entry in content["profile"]:
        assert set(entry.pop("r2")) == {"value", "low", "high"}
        assert entry.pop("transfer") in ("pass", "fail", "unclear")
    content.pop("warnings")
    (tmp_path / "old.json").write_text(json.dumps(content))
    assert read_layers(tmp_path / "old.json").warnings == []


def test_prompts_of_one_patient_count_once():
    rng = np.random.default_rng(3)
    patient = np.repeat(rng.normal(0.04, 0.02, 8), 25)
    error = patient + rng.normal(0, 0.001, 200)
    rows = judge_transfer(rebuilt(error, np.ones(200)), range(200))
    patients = judge_transfer(rebuilt(error, np.ones(200)), np.repeat(np.arange(8), 25).tolist())
    assert patients.r2.value == pytest.approx(rows.r2.value)
    # The patients' errors are what varies: 8 of them know far less than 200 rows.
    expected = ttest_1samp(0.05 - error.reshape(8, 25).mean(1), 0, alternative="greater").pvalue
    assert patients.p == pytest.approx(expected)
    assert patients.p > 100 * rows.p
    assert patients.r2.high - patients.r2.low > 4 * (rows.r2.high - rows.r2.low)


def test_a_verdict_and_its_interval_never_disagree():
    rng = np.random.default_rng(4)
    verdicts = []
    for spread in np.linspace(0.01, 0.1, 60):
        error = np.repeat(rng.normal(0.04, spread, 9), 3)
        judged = judge_transfer(rebuilt(error, np.ones(27)), np.repeat(np.arange(9), 3).tolist())
        verdicts.append(judged.verdict)
        expected = "pass" if judged.r2.low > 0.95 else "fail" if judged.r2.high < 0.95 else "unclear"
        assert judged.verdict == expected
    assert len(set(verdicts)) > 1


def test_questions_name_their_patients_and_plain_prompts_stand_alone(tmp_path):
    asked = load_questions(WORLD / "questions.jsonl", split="test")[:20]
    assert question_prompts(asked, 20)["patient"].tolist() == [question.group for question in asked]
    (tmp_path / "lines").write_text("one\ntwo\nthree\n")
    assert text_prompts(tmp_path / "lines", 9)["patient"].nunique() == 3
