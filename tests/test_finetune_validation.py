"""Questions asked after every epoch: their scores are those of plain forwards and of the evaluation, and asking them
leaves no trace in the adapter."""

import json
import math
from dataclasses import replace

import pandas as pd
import pytest
import torch
from finetune_world import make_world, plain_logits, plain_margin
from pages import Page
from test_processes import launch
from test_resume import copied
from test_trackers import Recorder

from finetune.lora.history import SCORES
from finetune.lora.modules import add_lora, set_dropout
from finetune.lora.settings import TrainSettings
from finetune.training import loop as training
from finetune.training.batches import training_steps
from finetune.training.checkpoint import read_state, write_state
from finetune.training.loop import accelerator_for, train
from finetune.training.run import train_and_evaluate
from finetune.training.validation import Validation, draw
from interp.model.load import load_vlm
from interp.model.spec import ModelSpec
from interp.questions.files import load_questions
from interp.questions.spec import DataSpec
from interp.runtime.errors import InputError
from interp.storage.checkpoint import Checkpoint
from interp.views.report.collect import collect
from interp.views.report.render import render

SETTINGS = TrainSettings(rank=2, alpha=4, dropout=0.3, lr=1e-2, batch_size=4, epochs=2, validate=1000)
INPUTS = {"lr": 0.01}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    torch.set_num_threads(1)
    return make_world(tmp_path_factory.mktemp("validation") / "world", patients=6)


@pytest.fixture(scope="module")
def taught(world):
    return load_questions(world.questions, split="train")


@pytest.fixture(scope="module")
def held_out(world):
    return load_questions(world.questions, split="test")


def adapted_model(world):
    vlm = load_vlm(world.model, "cpu", "float32")
    return vlm, add_lora(vlm, [1, 2], SETTINGS.rank, SETTINGS.alpha, SETTINGS.dropout)


def plain_scores(vlm, questions, settings):
    """The five scores of some questions, one plain forward per wording."""
    tokenizer = vlm.processor.tokenizer
    losses, parts, flips, right = [], [], [], []
    for q in questions:
        spelled = [q.true_answer]
        if settings.spelling == "any":
            spelled += [q.true_answer.capitalize(), f" {q.true_answer}"]
        tokens = {tokenizer(answer, add_special_tokens=False)["input_ids"][0] for answer in spelled}
        right_tokens = [i for i in tokens if tokenizer.decode([i]).strip().lower() == q.true_answer]
        texts = [q.question, *(p.text for p in q.paraphrases)]
        with torch.no_grad():
            logits = [plain_logits(vlm.model, vlm.processor, q.image, text) for text in texts]
        right += [tokenizer.decode([int(x.argmax())]).lower() == q.true_answer for x in logits]
        margins = [plain_margin(x, tokenizer) for x in logits]
        if q.closed and len(margins) > 1:
            flips.append(any((m > 0) != (margins[0] > 0) for m in margins[1:]))
        ces = [-x.log_softmax(-1)[right_tokens].logsumexp(0).item() for x in logits]
        ce, kl = ces[0], 0.0
        if len(logits) > 1:
            # A step draws one of the paraphrases; this is the mean over all that it could draw.
            if settings.answer_wordings == "both":
                ce = sum((ces[0] + each) / 2 for each in ces[1:]) / (len(ces) - 1)
            p = [x.softmax(-1) for x in logits]
            both = [((p[0] - q) * (p[0].log() - q.log())).sum().item() for q in p[1:]]
            kl = sum(both) / len(both) / (2 if settings.divergence == "mean" else 1)
        parts.append((ce, kl))
        losses.append(settings.answer_weight * ce + settings.consistency_weight * kl)
    ce, kl = (sum(part) / len(questions) for part in zip(*parts, strict=True))
    shares = (sum(flips) / len(flips), sum(right) / len(right))
    return (sum(losses) / len(losses), ce, kl, *shares), len(flips)


@pytest.mark.parametrize("forms", [{}, {"spelling": "any", "answer_wordings": "original", "divergence": "sum"}])
def test_scores_are_those_of_plain_forwards(world, taught, held_out, forms):
    vlm, adapted = adapted_model(world)
    # Trained a little, so that some questions flip and some answers are right.
    settings = replace(SETTINGS, lr=5e-3, consistency_weight=0.0)
    train(vlm, adapted, training_steps(taught, 4, 4, 0), settings, accelerator_for("cpu"))
    settings = replace(SETTINGS, consistency_weight=0.5, answer_weight=2.0, **forms)
    validation = Validation(vlm, adapted, accelerator_for("cpu"), settings, taught, held_out)
    set_dropout(adapted, True)
    found = validation.ask(3)
    assert any(module.training for module in adapted.modules()), "dropout is as it was"
    set_dropout(adapted, False)
    for scores, questions in zip(found, (taught, held_out), strict=True):
        expected, paired = plain_scores(vlm, questions, settings)
        assert (scores.epoch, scores.questions, scores.paired) == (3, len(questions), paired)
        assert [getattr(scores, name) for name in SCORES] == pytest.approx(expected, rel=1e-4)
    assert validation.scores == found
    assert 0 < found[0].question_flip_rate < 1
    assert 0 < found[0].first_token_accuracy < 1


def test_the_sample_is_drawn_from_answered_questions_whatever_the_seed(taught):
    silent = [q.model_copy(update={"answer": None}) for q in taught[:5]]
    pool = [*silent, *taught[5:]]
    chosen = draw(pool, 6)
    assert len(chosen) == len({q.id for q in chosen}) == 6
    assert not {q.id for q in chosen} & {q.id for q in silent}
    assert chosen == draw(pool, 6)
    assert {q.id for q in chosen} < {q.id for q in draw(pool, 9)}, "a larger sample contains the smaller one"
    assert len(draw(pool, 10**6)) == len(taught) - 5
    assert draw(silent, 3) == []


def trained(world, taught, held_out, validate, saved=None, keep=None):
    """Weights, history and scores of a training in a fresh model."""
    vlm, adapted = adapted_model(world)
    settings, accelerator = replace(SETTINGS, validate=validate), accelerator_for("cpu")
    steps = training_steps(taught, settings.epochs, settings.batch_size, settings.seed)
    asking = Validation(vlm, adapted, accelerator, settings, taught, held_out) if validate else None
    history = train(vlm, adapted, steps, settings, accelerator, saved, keep, asking)
    weights = {name: p.detach().clone() for name, p in adapted.named_parameters() if p.requires_grad}
    return weights, history, asking.scores if asking else []


def same(weights, others):
    return all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.fixture(scope="module")
def asked(world, taught, held_out):
    """A training that asks 7 questions of each sample, and its state after every step."""
    states = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
        result = trained(world, taught, held_out, 7, keep=lambda state: states.append(copied(state)))
    return result, states


def test_asking_changes_no_bit_of_the_training(world, taught, held_out, asked):
    weights, history, scores = asked[0]
    plain, told, none = trained(world, taught, held_out, 0)
    assert none == []
    assert told == history
    assert same(plain, weights)
    assert [(each.epoch, each.held_out) for each in scores] == [(e, h) for e in range(3) for h in (False, True)]
    assert len({each.loss for each in scores}) == 6
    assert {each.questions for each in scores} == {7}


def test_a_resumed_training_has_the_scores_of_all_epochs(world, taught, held_out, asked, tmp_path):
    (weights, history, scores), states = asked
    per_epoch = len(states) // 2
    # Before the first epoch ends, right after its last step, in the second epoch, and after the end.
    for done in (1, per_epoch, per_epoch + 1, len(states)):
        write_state(Checkpoint(tmp_path, INPUTS), states[done - 1], 0.0)
        saved, _ = read_state(Checkpoint(tmp_path, INPUTS))
        assert len(saved.scores) == 2 * (1 + done // per_epoch)
        again = trained(world, taught, held_out, 7, saved)
        assert same(again[0], weights)
        assert again[1:] == (history, scores)


def test_a_checkpoint_of_an_earlier_version_has_no_scores(world, taught, held_out, asked, tmp_path):
    weights, history, _ = asked[0]
    state = asked[1][2]
    checkpoint = Checkpoint(tmp_path, INPUTS)
    write_state(checkpoint, state, 0.0)
    tensors = {name: tensor for name, tensor in checkpoint.read("training").items() if name != "scores"}
    checkpoint.write("training", tensors)
    saved, _ = read_state(checkpoint)
    again = trained(world, taught, held_out, 0, saved)
    assert same(again[0], weights)
    assert again[1:] == (history, [])


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    """The folder of a whole run that asks every question, and what a tracker was told."""
    tracker, out = Recorder(), tmp_path_factory.mktemp("run") / "adapter"
    spec, data = ModelSpec(world.model, device="cpu"), DataSpec(world.questions)
    train_and_evaluate(spec, data, out, replace(SETTINGS, validate=500), layers="1-2", log_with=tracker)
    return out, tracker


def test_the_last_scores_are_those_of_the_evaluation(run):
    """Of all held-out questions, which the evaluation asks too, by other code; the base is epoch 0."""
    out, _ = run
    epochs = json.loads((out / "gatescope.json").read_text())["epochs"]
    comparisons = json.loads((out / "evaluation.json").read_text())["comparisons"]
    overall = {each["measure"]: each for each in comparisons if each["kind"] == "all"}
    assert [epoch["epoch"] for epoch in epochs] == [0, 1, 2]
    for name in ("question_flip_rate", "first_token_accuracy"):
        before, after = (epochs[place]["held_out"][name] for place in (0, -1))
        assert before == pytest.approx(overall[name]["before"]["value"], abs=1e-6), name
        assert after == pytest.approx(overall[name]["after"]["value"], abs=1e-6), name


def test_history_record_card_and_trackers_say_the_same(run):
    out, tracker = run
    history = pd.read_csv(out / "history.csv")
    epochs = json.loads((out / "gatescope.json").read_text())["epochs"]
    columns = [f"{sample}_{name}" for sample in ("train", "held_out") for name in SCORES]
    assert [*history.columns[-10:]] == columns
    ends = history.groupby("epoch")["step"].idxmax()
    assert list(history.index[history["train_loss"].notna()]) == list(ends)
    assert history[columns].notna().sum().eq(2).all()
    logged = [step for step in tracker.steps if "validation/train_loss" in step]
    assert [step["step"] for step in logged] == [0, *history.loc[ends, "step"]]
    card = (out / "README.md").read_text().splitlines()
    rows = [line.strip("| ").split(" | ") for line in card if line.startswith(("| 0 | –", "| 1 | ", "| 2 | "))]
    assert len(rows) == 3
    for epoch, told, row in zip(epochs, logged, rows, strict=True):
        for sample in ("train", "held_out"):
            for name in SCORES:
                expected = epoch[sample][name]
                assert told[f"validation/{sample}_{name}"] == pytest.approx(expected, rel=1e-5)
                if epoch["epoch"]:
                    row_of = history.loc[ends[epoch["epoch"]]]
                    assert row_of[f"{sample}_{name}"] == pytest.approx(expected, rel=1e-5)
        numbers = [epoch["epoch"], *(epoch[part] for part in ("loss", "ce", "kl"))]
        shown = [None if text == "–" else float(text) for text in row]
        for sample in ("train", "held_out"):
            numbers += [epoch[sample][part] for part in ("loss", "ce", "kl")]
            numbers += [100 * epoch[sample][part] for part in ("question_flip_rate", "first_token_accuracy")]
        assert len(shown) == len(numbers)
        for text, number in zip(shown, numbers, strict=True):
            assert (text is None) == (number is None)
            assert number is None or text == pytest.approx(number, abs=0.0501 if number > 1.5 else 0.0006)
    for epoch in (1, 2):
        steps = history[history["epoch"] == epoch]
        for part in ("loss", "ce", "kl"):
            assert epochs[epoch][part] == pytest.approx(steps[part].mean(), rel=1e-5)


def test_the_report_shows_every_epoch(run):
    out, _ = run
    epochs = json.loads((out / "gatescope.json").read_text())["epochs"]
    page = Page(render(collect(out)))
    rows = page.table("The training by epoch")
    (heading,) = [lines[0] for caption, lines in page.tables.items() if caption.startswith("The training by epoch")]
    assert len(rows) == len(epochs) == 3
    for epoch, row in zip(epochs, rows, strict=True):
        shown = dict(zip((" ".join(cell.split()) for cell in heading), row, strict=True))
        assert shown["epoch"] == str(epoch["epoch"])
        assert shown["divergence"] == ("–" if epoch["kl"] is None else f"{epoch['kl']:.3f}")
        for sample, name in (("train", "training sample"), ("held_out", "held-out")):
            assert shown[f"{name}: question flips [%]"] == f"{100 * epoch[sample]['question_flip_rate']:.1f}"
            assert shown[f"{name}: first token right [%]"] == f"{100 * epoch[sample]['first_token_accuracy']:.1f}"
            assert shown[f"{name}: cross-entropy"] == f"{epoch[sample]['ce']:.3f}"


def test_without_validation_the_history_has_the_columns_of_before(world, tmp_path):
    spec, data = ModelSpec(world.model, device="cpu"), DataSpec(world.questions)
    train_and_evaluate(spec, data, tmp_path / "adapter", replace(SETTINGS, validate=0, epochs=1), layers="1")
    assert [*pd.read_csv(tmp_path / "adapter/history.csv")] == [*training.StepRecord._fields]
    (epoch,) = json.loads((tmp_path / "adapter/gatescope.json").read_text())["epochs"]
    assert (epoch["epoch"], epoch["train"], epoch["held_out"]) == (1, None, None)
    assert math.isfinite(epoch["loss"])


def test_another_sample_is_refused_on_resuming(world, tmp_path, monkeypatch):
    spec, data, out = ModelSpec(world.model, device="cpu"), DataSpec(world.questions), tmp_path / "adapter"
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        train_and_evaluate(spec, data, out, SETTINGS, layers="1", log_with=Recorder(until=3))
    with pytest.raises(InputError, match="was made with validate 1000, but now it is 7"):
        train_and_evaluate(spec, data, out, replace(SETTINGS, validate=7), layers="1", resume=True)


@pytest.mark.slow
def test_two_processes_divide_the_samples(world, tmp_path):
    settings = TrainSettings(epochs=1, dropout=0.0, validate=9)
    spec, data = ModelSpec(world.model, device="cpu"), DataSpec(world.questions)
    train_and_evaluate(spec, data, tmp_path / "one", settings, layers="1")
    arguments = ["--model", world.model, "--questions", world.questions, "--device", "cpu", "--layers", "1"]
    arguments += ["--epochs", "1", "--dropout", "0", "--validate", "9", "--out", "two"]
    done = launch("-m", "finetune.cli.app", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = [json.loads((tmp_path / name / "gatescope.json").read_text())["epochs"] for name in ("one", "two")]
    for one, two in zip(*found, strict=True):
        for sample in ("train", "held_out"):
            assert one[sample]["questions"] == 9
            assert two[sample] == {name: pytest.approx(value, rel=1e-4) for name, value in one[sample].items()}
