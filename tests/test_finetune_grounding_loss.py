"""The grounding term of training: which image should change an answer, the loss on it, and what it does to a model."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch
from finetune_world import awaken, losses_of, make_world, plain_logits, plain_margin
from torch.nn import functional as F

from finetune.cli.app import main
from finetune.lora.adapter_folder import read_record
from finetune.lora.modules import add_lora
from finetune.lora.settings import TrainSettings
from finetune.publishing.card import model_card
from finetune.training.batches import training_steps
from finetune.training.loop import accelerator_for, train
from finetune.training.loss import SWAP_MARGIN
from finetune.training.run import train_and_evaluate
from interp.images.decode import BLANK_IMAGE
from interp.model.image_tokens import encode_images
from interp.model.load import load_vlm
from interp.model.spec import ModelSpec
from interp.questions.files import load_questions
from interp.questions.opposite_images import opposite_images
from interp.questions.schema import Question
from interp.questions.spec import DataSpec
from interp.runtime.errors import InputError


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    torch.set_num_threads(1)
    return make_world(tmp_path_factory.mktemp("grounding") / "world", patients=12)


@pytest.fixture
def vlm(world):
    return load_vlm(world.model, "cpu", "float32")


@pytest.fixture
def questions(world):
    return load_questions(world.questions, split="train")


def asked(patient, question, answer, paraphrases=(), image=None, type_="presence"):
    return Question(
        id=f"{patient} {question} {image}",
        image=image or f"{patient}.png",
        patient=patient,
        type=type_,
        question=question,
        answer=answer,
        paraphrases=[{"text": text} for text in paraphrases],
    )


OWN = [
    asked("a", "Is there fluid?", "yes", ["Any fluid?"]),
    asked("a", "Is there fluid?", "no", image="a before.png"),  # the same patient, earlier
    asked("b", "Fluid?", "No", ["any fluid? "]),  # shares a paraphrase with a
    asked("c", "Is there fluid?", "yes"),
    asked("d", "Is there air?", "no"),  # nobody else has air
    asked("e", "Which view is this?", "pa", type_="view"),
    asked("f", "Is there fluid?", "no.", image="f1.png"),
    asked("f", "Is there fluid?", "no", image="f2.png"),
]


def test_opposite_images_are_those_known_to_change_the_answer():
    allowed = [
        {"b.png", "f1.png", "f2.png"},
        {"c.png"},
        {"a.png"},
        {"a before.png", "f1.png", "f2.png"},
        {None},
        {None},
        {"a.png", "c.png"},
        {"a.png", "c.png"},
    ]
    met = [set() for _ in OWN]
    for seed in range(200):
        for seen, image in zip(met, opposite_images(OWN, np.random.default_rng(seed)), strict=True):
            seen.add(image)
    assert met == allowed


def test_every_other_patient_is_as_likely():
    many = [asked("x", "Is there fluid?", "yes")]
    many += [asked(f"p{k}", "Is there fluid?", "no", image=f"p{k} {i}.png") for k in range(4) for i in range(1 + 4 * k)]
    drawn = [opposite_images(many, np.random.default_rng(seed))[0] for seed in range(2000)]
    counts = [sum(image.startswith(f"p{k} ") for image in drawn) for k in range(4)]
    # Four standard deviations of a binomial.
    assert all(abs(count - 500) < 4 * (2000 * 0.25 * 0.75) ** 0.5 for count in counts), counts


def test_a_wording_that_inverts_the_meaning_is_no_shared_wording():
    inverted = asked("a", "Is there fluid?", "yes").model_copy()
    inverted = Question.model_validate(
        inverted.model_dump(by_alias=True) | {"paraphrases": [{"text": "No fluid?", "operator": "negation"}]}
    )
    assert opposite_images([inverted, asked("b", "No fluid?", "no")], np.random.default_rng(0)) == [None, None]


@pytest.mark.parametrize("grounding", ["blank", "swap"])
def test_the_plan_differs_by_substitutes_only(questions, grounding):
    plain, grounded = (training_steps(questions, 3, 8, 5, kind) for kind in ("none", grounding))
    assert plain == training_steps(questions, 3, 8, 5)
    assert [s._replace(items=[i._replace(substitute=None) for i in s.items]) for s in grounded] == plain
    assert grounded == training_steps(questions, 3, 8, 5, grounding)
    patient = {q.image: q.patient for q in questions}
    truth = {
        (q.image, text): q.true_answer for q in questions for text in (q.question, *(p.text for p in q.paraphrases))
    }
    for item in (item for step in grounded for item in step.items):
        closed = item.answer.lower() in ("yes", "no")
        if grounding == "blank":
            assert item.substitute == (BLANK_IMAGE if closed else None)
        elif item.substitute is not None:
            assert closed
            assert patient[item.substitute] != patient[item.image]
            assert {truth[item.image, item.original], truth[item.substitute, item.original]} == {"yes", "no"}
    drawn = [{i.image + i.original: i.substitute for s in grounded if s.epoch == e for i in s.items} for e in range(3)]
    assert any(drawn[0].values())
    assert (drawn[0] == drawn[1] == drawn[2]) == (grounding == "blank"), "epochs draw different images"


def test_the_plan_of_the_published_loss_is_that_of_before_there_was_another(questions):
    """Order and paraphrases as one generator per epoch draws them: first the order, then a paraphrase of each."""
    rng = np.random.default_rng([3, 0])
    order = rng.permutation(len(questions))
    texts = [[p.text for p in questions[i].paraphrases] for i in order]
    expected = [
        (questions[i].question, t[rng.integers(len(t))] if t else None) for i, t in zip(order, texts, strict=True)
    ]
    for grounding in ("none", "blank", "swap"):
        steps = training_steps(questions, 1, 7, 3, grounding)
        assert [(i.original, i.paraphrase) for s in steps for i in s.items] == expected


@pytest.mark.parametrize(("grounding", "wanted"), [("blank", "asks for yes or no"), ("swap", "opposite answer")])
def test_a_term_with_nothing_to_act_on_is_refused(grounding, wanted):
    chosen = OWN[4:6] if grounding == "swap" else OWN[5:6]
    with pytest.raises(InputError, match=wanted):
        training_steps(chosen, 1, 8, 0, grounding)


@pytest.mark.parametrize("grounding", ["blank", "swap"])
def test_packed_term_and_gradient_equal_one_by_one(vlm, questions, grounding):
    adapted = add_lora(vlm, [0, 2], dropout=0.0)
    awaken(adapted)
    # Larger logits, so that some images move the margin by more than the hinge requires.
    vlm.model.model.language_model.norm.weight.data += 60
    chosen = [q for q in questions if q.closed] + [q for q in questions if not q.closed][:4]
    items = [i for s in training_steps(chosen, 2, 20, 0, grounding) for i in s.items]
    items = [item._replace(paraphrase=None) if k % 5 == 0 else item for k, item in enumerate(items)]
    # A closed question without a known substitute.
    alone = next(k for k, item in enumerate(items) if item.substitute is not None)
    items[alone] = items[alone]._replace(substitute=None)
    encode_images(vlm, [i.image for i in items] + [i.substitute for i in items if i.substitute])
    losses = losses_of(vlm, adapted, items)
    assert losses.grounding.dtype == torch.float32
    losses.grounding.sum().backward()
    packed = {n: p.grad.clone() for n, p in adapted.named_parameters() if p.requires_grad}
    adapted.zero_grad()

    vocabulary = vlm.processor.tokenizer.get_vocab()
    ids = {w: [i for t, i in vocabulary.items() if t.strip("▁").lower() == w] for w in ("yes", "no")}

    def margin(image, text):
        logits = plain_logits(vlm.model, vlm.processor, image, text)
        return logits[ids["yes"]].logsumexp(0) - logits[ids["no"]].logsumexp(0)

    total, satisfied = torch.zeros(()), 0
    for k, item in enumerate(items):
        if item.substitute is None:
            assert losses.grounding[k] == 0
            continue
        terms = []
        for text in (item.original, item.paraphrase):
            if text is None:
                continue
            other = margin(item.substitute, text)
            if grounding == "blank":
                odds = torch.stack([other, torch.zeros(())]).log_softmax(0)
                terms.append(F.kl_div(odds, torch.tensor([0.5, 0.5]), reduction="sum"))
            else:
                towards = (margin(item.image, text) - other) * (1 if item.answer.lower() == "yes" else -1)
                terms.append((2.0 - towards).clamp_min(0))
                satisfied += bool(towards >= 2.0)
        term = torch.stack(terms).mean()
        assert losses.grounding[k].item() == pytest.approx(term.item(), rel=1e-4, abs=1e-5)
        total = total + term
    assert torch.count_nonzero(losses.grounding) >= 8
    assert grounding == "blank" or satisfied > 2, "both sides of the hinge occur"
    total.backward()
    slow = torch.cat([p.grad.flatten() for p in adapted.parameters() if p.requires_grad])
    fast = torch.cat([g.flatten() for g in packed.values()])
    assert float(F.cosine_similarity(fast.double(), slow.double(), dim=0)) > 0.999999
    assert float(fast.norm() / slow.norm()) == pytest.approx(1, rel=1e-4)


def test_the_other_parts_of_the_loss_do_not_change_with_a_term(vlm, questions):
    adapted = add_lora(vlm, [0, 2], dropout=0.0)
    awaken(adapted)
    encode_images(vlm, [q.image for q in questions] + [BLANK_IMAGE])
    found = {}
    for grounding in ("none", "blank", "swap"):
        [step] = training_steps(questions[:12], 1, 12, 0, grounding)
        found[grounding] = losses_of(vlm, adapted, step.items)
    assert torch.equal(found["none"].grounding, torch.zeros(12))
    for grounding in ("blank", "swap"):
        assert torch.allclose(found[grounding].cross_entropy, found["none"].cross_entropy, atol=1e-5)
        assert torch.allclose(found[grounding].divergence, found["none"].divergence, atol=1e-5)
        assert found[grounding].grounding.sum() > 0


@pytest.fixture(scope="module")
def trained(world):
    """Term -> the model after some steps with it, and their history; everything else is equal."""
    asked, found = load_questions(world.questions, split="train"), {}
    for grounding in ("none", "blank", "swap"):
        vlm = load_vlm(world.model, "cpu", "float32")
        adapted = add_lora(vlm, [0, 1, 2], dropout=0.0)
        settings = TrainSettings(lr=5e-3, dropout=0.0, grounding=grounding, grounding_weight=2.0)
        steps = training_steps(asked, 10, settings.batch_size, settings.seed, grounding)
        found[grounding] = vlm, train(vlm, adapted, steps, settings, accelerator_for("cpu"))
    return found


@torch.no_grad()
def margin_of(vlm, image, text):
    return plain_margin(plain_logits(vlm.model, vlm.processor, image, text), vlm.processor.tokenizer)


def test_training_with_blank_leaves_the_answer_open_without_the_image(trained, questions):
    texts = {text for q in questions if q.closed for text in (q.question, *(p.text for p in q.paraphrases))}
    without, with_term = (
        np.mean([abs(margin_of(trained[kind][0], BLANK_IMAGE, text)) for text in texts]) for kind in ("none", "blank")
    )
    assert without > 0.3, "otherwise there is nothing to lower"
    assert with_term < without / 2


def test_training_with_swap_lets_the_image_move_the_answer(trained, questions):
    closed = [q for q in questions if q.closed]
    pairs = [(q, o) for q, o in zip(closed, opposite_images(closed, np.random.default_rng(9)), strict=True) if o]
    moved = {}
    for kind in ("none", "swap"):
        vlm = trained[kind][0]
        towards = [
            (margin_of(vlm, q.image, q.question) - margin_of(vlm, other, q.question))
            * (1 if q.true_answer == "yes" else -1)
            for q, other in pairs
        ]
        moved[kind] = np.mean(towards)
    assert moved["swap"] > moved["none"] + SWAP_MARGIN / 2


def test_the_history_tells_the_term(trained):
    for kind, (_, history) in trained.items():
        assert all(s.loss == pytest.approx(s.ce + s.kl + 2.0 * s.grounding) for s in history)
        assert all(s.grounding == 0 for s in history) == (kind == "none")
    assert sum(s.grounding for s in trained["swap"][1][-6:]) < sum(s.grounding for s in trained["swap"][1][:6]) / 2


def test_the_weight_scales_the_gradient_of_the_term_alone(world, questions):
    norm = {}
    for grounding, weight in (("none", 1.0), ("blank", 0.0), ("blank", 1e4), ("blank", 2e4)):
        vlm = load_vlm(world.model, "cpu", "float32")
        adapted = add_lora(vlm, [1], dropout=0.0)
        awaken(adapted)
        settings = TrainSettings(dropout=0.0, grounding=grounding, grounding_weight=weight)
        steps = training_steps(questions, 1, 8, 0, grounding)[:1]
        [record] = train(vlm, adapted, steps, settings, accelerator_for("cpu"))
        norm[grounding, weight] = record.grad_norm
    assert norm["blank", 0.0] == pytest.approx(norm["none", 1.0], rel=1e-4)
    assert norm["blank", 1e4] > 10 * norm["none", 1.0]
    assert norm["blank", 2e4] == pytest.approx(2 * norm["blank", 1e4], rel=0.05)


@pytest.mark.parametrize("change", [{"grounding": "black"}, {"grounding_weight": -0.1}, {"grounding_weight": np.nan}])
def test_settings_out_of_range_are_refused(change):
    with pytest.raises(InputError, match=next(iter(change))):
        dataclasses.replace(TrainSettings(), **change)


def test_the_record_carries_the_term_and_older_records_are_read(world, tmp_path):
    out = tmp_path / "adapter"
    settings = TrainSettings(epochs=1, grounding="swap", grounding_weight=0.5)
    evaluation = train_and_evaluate(
        ModelSpec(world.model, device="cpu"), DataSpec(world.questions), out, settings, layers="1"
    )
    record = read_record(out)
    assert (record.settings["grounding"], record.settings["grounding_weight"]) == ("swap", 0.5)
    assert "| grounding term | swap, weight 0.5 |" in (out / "README.md").read_text()
    history = pd.read_csv(out / "history.csv")
    assert list(history) == ["step", "epoch", "lr", "loss", "ce", "kl", "grounding", "grad_norm"]
    assert history["grounding"].sum() > 0
    older = json.loads((out / "gatescope.json").read_text())
    del older["settings"]["grounding"], older["settings"]["grounding_weight"]
    (out / "gatescope.json").write_text(json.dumps(older))
    assert "| grounding term | none |" in model_card(read_record(out), evaluation)


def test_the_commands_help_names_the_options(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["finetune", "--help"])
    monkeypatch.setenv("COLUMNS", "160")
    with pytest.raises(SystemExit):
        main()
    shown = capsys.readouterr().out
    assert "--grounding-weight" in shown
    assert "none|blank|swap" in shown
