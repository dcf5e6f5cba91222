import dataclasses
import json
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from finetune_world import awaken, items_of, losses_of, make_world, plain_logits
from torch.nn import functional as F

from finetune.evaluation.collect import right_tokens
from finetune.lora.modules import add_lora
from finetune.lora.settings import TrainSettings
from finetune.training.batches import Step, training_steps, wordings
from finetune.training.forward import FirstTokenLogits, build_batch
from finetune.training.loop import accelerator_for, learning_rate, train
from finetune.training.prefix_states import PrefixStates, Prompt
from interp.model.image_tokens import encode_images
from interp.model.load import load_vlm
from interp.model.prompts import DEFAULT_STYLE, PromptStyle
from interp.questions.files import load_questions
from interp.questions.generated_answers import begins_with_answer, parse_yes_no
from interp.questions.tables import prompt_table
from interp.runtime.errors import InputError


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    torch.set_num_threads(1)
    return make_world(tmp_path_factory.mktemp("train") / "world", patients=6)


@pytest.fixture
def vlm(world):
    return load_vlm(world.model, "cpu", "float32")


@pytest.fixture
def questions(world):
    return load_questions(world.questions, split="train")


def adapter_of(adapted):
    return {name: p.detach().clone() for name, p in adapted.named_parameters() if p.requires_grad}


def test_packed_training_logits_equal_plain_transformers(vlm, questions):
    adapted = add_lora(vlm, [0, 1, 2], dropout=0.0)
    awaken(adapted)
    encode_images(vlm, [q.image for q in questions])
    texts = [(q.image, text) for q in questions for text in (q.question, *(p.text for p in q.paraphrases))]
    asked = [Prompt(image, text, False) for image, text in texts]
    frozen = PrefixStates(vlm)
    rows = frozen.pack(asked)
    assert len(rows) < len(asked), "wordings of one image share a row"
    batch = frozen.collate(rows)
    found = FirstTokenLogits(adapted)([(batch, frozen.inputs(asked, rows, batch))])
    for place, index in enumerate(batch.prompts):
        expected = plain_logits(vlm.model, vlm.processor, *texts[index])
        assert torch.allclose(found[place], expected, atol=1e-5), asked[index]


def test_packed_loss_and_gradient_equal_one_by_one(vlm, questions):
    adapted = add_lora(vlm, [0, 2], dropout=0.0)
    awaken(adapted)
    items = items_of(questions[:9])
    assert any(item.paraphrase is None for item in items)
    encode_images(vlm, [item.image for item in items])
    losses = losses_of(vlm, adapted, items)
    (losses.cross_entropy + 0.7 * losses.divergence).sum().backward()
    packed = {name: p.grad.clone() for name, p in adapted.named_parameters() if p.requires_grad}
    adapted.zero_grad()

    total = torch.zeros(())
    for i, item in enumerate(items):
        target = torch.tensor(vlm.processor.tokenizer(item.answer, add_special_tokens=False)["input_ids"][0])
        texts = [text for text in (item.original, item.paraphrase) if text is not None]
        logits = [plain_logits(vlm.model, vlm.processor, item.image, text) for text in texts]
        ce = torch.stack([F.cross_entropy(x, target) for x in logits]).mean()
        kl = torch.zeros(())
        if len(logits) == 2:
            p, q = (x.log_softmax(-1) for x in logits)
            kl = (
                F.kl_div(p, q, reduction="sum", log_target=True) + F.kl_div(q, p, reduction="sum", log_target=True)
            ) / 2
        assert losses.cross_entropy[i].item() == pytest.approx(ce.item(), rel=1e-4)
        assert losses.divergence[i].item() == pytest.approx(kl.item(), rel=1e-3, abs=1e-6)
        total = total + ce + 0.7 * kl
    total.backward()
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            assert torch.allclose(packed[name], parameter.grad, rtol=1e-3, atol=1e-5), name


@pytest.mark.parametrize(
    ("type_", "text", "spellings"),
    [
        ("presence", "Is there effusion?", ("yes", "Yes.", "yes, small", "TRUE", "Sí", "1", "Present")),
        ("other", "Is there effusion?", ("no", "No evidence of effusion.", "0", "none", "nein")),
        ("view", "Which view is this?", ("pa", "PA", "PA view", "P.A.", "posterior-anterior")),
        ("level", "How bad is the edema?", ("moderate", " Moderate. ")),
    ],
)
def test_an_answer_in_any_spelling_is_trained_as_it_will_be_judged(vlm, questions, type_, text, spellings):
    """ "PA view" once was a target of its own ("P..."), while the evaluation expected "pa"."""
    plain = questions[0].model_copy(update={"type": type_, "question": text, "paraphrases": [], "answer": spellings[0]})
    add_lora(vlm, [1])
    tokenizer, frozen = vlm.processor.tokenizer, PrefixStates(vlm)
    encode_images(vlm, [plain.image])
    for answer in spellings:
        spelled = plain.model_copy(update={"answer": answer})
        (step,) = training_steps([spelled], epochs=1, batch_size=1, seed=0)
        batch = build_batch(frozen, step.items)
        prompts = prompt_table([spelled])
        (judged,) = set(prompts["answer"])
        assert batch.targets.tolist() == tokenizer(judged, add_special_tokens=False)["input_ids"][:1], answer
        assert batch.targets.tolist() == tokenizer(spellings[0], add_special_tokens=False)["input_ids"][:1], answer
        assert step.items[0].closed == bool(prompts["closed"][0]) == (spellings[0] in ("yes", "no")), answer
        # A model that has learned its target is right by each of the evaluation's measures.
        assert right_tokens(tokenizer, prompts, batch.targets.numpy()).all(), answer
        assert begins_with_answer(judged, judged, type_)
        if step.items[0].closed:
            assert parse_yes_no(judged) == parse_yes_no(judged.capitalize() + ".") == spellings[0]


def test_a_closed_question_is_asked_as_it_will_be_evaluated_in_any_spelling_of_its_answer(vlm, questions):
    """ "Yes." is a closed question's answer, so the instruction follows it in training too."""
    closed = next(q for q in questions if q.closed and q.type == "presence")
    spelled = [closed.model_copy(update={"answer": answer}) for answer in ("yes", "Yes.", "yes, small")]
    vlm.style = PromptStyle(answer_instruction="Answer yes or no.")
    model = add_lora(vlm, [1])
    encode_images(vlm, [closed.image])
    losses = [losses_of(vlm, model, [item for s in training_steps([q], 1, 1, 0) for item in s.items]) for q in spelled]
    assert len({one.cross_entropy.item() for one in losses}) == 1
    assert len({one.divergence.item() for one in losses}) == 1
    vlm.style = DEFAULT_STYLE
    without = losses_of(vlm, model, items_of(spelled[:1]))
    assert abs(without.cross_entropy.item() - losses[0].cross_entropy.item()) > 1e-5


def test_plan_meets_every_question_once_an_epoch_with_its_own_paraphrase(questions):
    steps = training_steps(questions, epochs=3, batch_size=4, seed=2)
    for epoch in range(3):
        met = Counter((i.image, i.original) for s in steps if s.epoch == epoch for i in s.items)
        assert met == Counter((q.image, q.question) for q in questions)
    sizes = {len(step.items) for step in steps}
    assert max(sizes) <= 4
    assert max(sizes) - min(sizes) <= 1
    allowed = {(q.image, q.question): {p.text for p in q.paraphrases} or {None} for q in questions}
    assert all(i.paraphrase in allowed[i.image, i.original] for s in steps for i in s.items)
    assert len({i.paraphrase for s in steps for i in s.items if i.original == questions[0].question}) > 1
    assert steps == training_steps(questions, 3, 4, seed=2)
    assert steps != training_steps(questions, 3, 4, seed=3)
    assert wordings(steps) <= {t for q in questions for t in (q.question, *(p.text for p in q.paraphrases))}


def test_a_tiny_run_lowers_the_loss_and_leaves_the_base_alone(vlm, questions):
    adapted = add_lora(vlm, [0, 1, 2])
    base = {n: p.detach().clone() for n, p in adapted.named_parameters() if not p.requires_grad}
    steps = training_steps(questions, epochs=20, batch_size=6, seed=0)
    settings = TrainSettings(lr=5e-3, batch_size=6, epochs=20)
    calls = []
    vlm.model.model.vision_tower.register_forward_hook(lambda module, inputs, output: calls.append(len(output[0])))
    history = train(vlm, adapted, steps, settings, accelerator_for("cpu"))
    assert len(history) == len(steps)
    first, last = (sum(s.loss for s in part) / 6 for part in (history[:6], history[-6:]))
    # The tied random embeddings bound the logits, so the loss can fall below ln(vocabulary) by at most about 1.3.
    assert last < first - 0.6
    assert sum(calls) == len({q.image for q in questions}), "each image passes the tower once"
    for name, parameter in adapted.named_parameters():
        if name in base:
            assert torch.equal(base[name], parameter), name
    assert not any(module.training for module in adapted.modules())
    assert all(s.loss == pytest.approx(s.ce + s.kl) for s in history)


@pytest.mark.parametrize("grounding", ["none", "blank", "swap"])
def test_the_way_a_batch_is_cut_does_not_matter(world, questions, grounding):
    found = []
    for size in (1, 4, 8):
        vlm = load_vlm(world.model, "cpu", "float32")
        adapted = add_lora(vlm, [1], dropout=0.0)
        steps = training_steps(questions, epochs=1, batch_size=8, seed=0, grounding=grounding)
        settings = TrainSettings(dropout=0.0, micro_batch_size=size, grounding=grounding)
        history = train(vlm, adapted, steps, settings, accelerator_for("cpu"))
        found.append([(s.loss, s.grounding, s.grad_norm) for s in history])
    assert found[0] == [pytest.approx(step, rel=1e-3, abs=1e-6) for step in found[2]]
    assert found[1] == [pytest.approx(step, rel=1e-3, abs=1e-6) for step in found[2]]


def test_the_same_seed_gives_the_same_adapter(world, questions):
    found = []
    for _ in range(2):
        vlm = load_vlm(world.model, "cpu", "float32")
        adapted = add_lora(vlm, [1], dropout=0.3)
        train(vlm, adapted, training_steps(questions[:8], 1, 4, 0), TrainSettings(dropout=0.3), accelerator_for("cpu"))
        found.append(adapter_of(adapted))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("bad", [1, 2, 3])
def test_a_loss_that_is_not_finite_names_its_step(vlm, questions, bad, monkeypatch):
    """The losses are read one step late, and the last ones at the end."""
    adapted = add_lora(vlm, [1])
    steps = training_steps(questions[:12], 1, 4, 0)
    assert len(steps) == 3
    forward, calls = FirstTokenLogits.forward, []

    def spoiled(self, parts):
        calls.append(len(parts))
        return forward(self, parts) * (math.nan if len(calls) == bad else 1)

    monkeypatch.setattr(FirstTokenLogits, "forward", spoiled)
    with pytest.raises(InputError, match=f"step {bad} is not finite"):
        train(vlm, adapted, steps, TrainSettings(), accelerator_for("cpu"))


def test_the_history_is_of_the_steps_as_they_were(vlm, questions):
    """Losses from before the update of a step, with the learning rate of that update."""
    adapted = add_lora(vlm, [1], dropout=0.0)
    steps = training_steps(questions[:12], 2, 4, 0)
    settings = TrainSettings(dropout=0.0, lr=1e-2)
    encode_images(vlm, [item.image for step in steps for item in step.items])
    parameters = [p for p in adapted.parameters() if p.requires_grad]
    start = [p.detach().clone() for p in parameters]
    history = train(vlm, adapted, steps, settings, accelerator_for("cpu"))
    for parameter, value in zip(parameters, start, strict=True):
        parameter.data.copy_(value)
    optimizer = torch.optim.AdamW(parameters, weight_decay=settings.weight_decay)
    assert [record.step for record in history] == [*range(1, len(steps) + 1)]
    for k, (record, step) in enumerate(zip(history, steps, strict=True)):
        losses = losses_of(vlm, adapted, step.items)
        total = losses.cross_entropy.mean() + losses.divergence.mean()
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
        lr = settings.lr * learning_rate(k, len(steps), settings.warmup_share, "cosine")
        assert record[1:4] == (step.epoch + 1, pytest.approx(lr), pytest.approx(total.item(), rel=1e-4))
        assert record.grad_norm == pytest.approx(norm.item(), rel=1e-3)
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        optimizer.zero_grad()


def test_learning_rate_rises_then_falls_to_nearly_zero():
    rates = [learning_rate(step, 200, 0.03, "cosine") for step in range(200)]
    assert rates[0] == pytest.approx(1 / 7)
    assert rates[:7] == sorted(rates[:7])
    assert max(rates) == rates[6] == 1.0
    assert rates[6:] == sorted(rates[6:], reverse=True)
    assert 0 < rates[-1] < 1e-3
    assert learning_rate(0, 1, 0.0, "cosine") == 1.0


@pytest.mark.parametrize(
    "change",
    [{"rank": 0}, {"lr": 0.0}, {"lr": math.nan}, {"dropout": 1.0}, {"epochs": 0}, {"consistency_weight": -1.0}],
)
def test_settings_out_of_range_are_refused(change):
    with pytest.raises(InputError, match=next(iter(change))):
        dataclasses.replace(TrainSettings(), **change)


def test_more_processes_than_questions_are_refused(vlm, questions):
    class Launched:
        num_processes = 4

    adapted = add_lora(vlm, [1])
    with pytest.raises(InputError, match="--batch-size"):
        train(vlm, adapted, [Step(0, items_of(questions[:3]))], TrainSettings(), Launched())


LAUNCHED = """
import json, sys
from pathlib import Path
import torch
from finetune.lora.modules import add_lora
from finetune.training.forward import FirstTokenLogits, build_batch
from finetune.training.batches import training_steps
from finetune.lora.settings import TrainSettings
from finetune.training.loop import accelerator_for, train
from interp.questions.files import load_questions
from interp.questions.generated_answers import begins_with_answer, parse_yes_no
from interp.questions.tables import prompt_table
from interp.model.load import load_vlm
from interp.runtime.distributed import shut_down

model, questions = sys.argv[1:]
accelerator = accelerator_for("cpu")
vlm = load_vlm(model, "cpu", "float32")
adapted = add_lora(vlm, [1, 2], dropout=0.0)
if accelerator.process_index == 1:
    # One process has less memory, so it makes more passes.
    forward = FirstTokenLogits.forward
    def limited(self, parts):
        if sum(len(batch.prompts) for batch, _ in parts) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, parts)
    FirstTokenLogits.forward = limited
# With a term whose number of batches differs between processes.
steps = training_steps(load_questions(questions, split="train"), 1, 7, 0, "blank")
settings = TrainSettings(dropout=0.0, lr=1e-2, grounding="blank", grounding_weight=100.0)
history = train(vlm, adapted, steps, settings, accelerator)
if accelerator.is_main_process:
    print(json.dumps([accelerator.num_processes, [[s.loss, s.grounding, s.grad_norm, s.lr] for s in history]]))
# As a command does at its end: otherwise one process may still be waiting for another that has ended.
accelerator.wait_for_everyone()
shut_down()
# Threads that exchange tensors may abort the process if they are left to the end of the interpreter.
left = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
assert accelerator.num_processes == 1 or "gloo" not in "".join(left)
"""


def test_two_processes_train_as_one(world, tmp_path):
    """As under `accelerate launch`, on CPU: losses, gradients and learning rates of the steps are equal."""
    script = tmp_path / "launched.py"
    script.write_text(LAUNCHED)
    root = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(root), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
    found = []
    for processes in ("1", "2"):
        command = [*launch, processes, str(script), str(world.model), str(world.questions)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout.splitlines()[-1]))
    assert [count for count, _ in found] == [1, 2]
    assert found[0][1] == [pytest.approx(step, rel=1e-4) for step in found[1][1]]
