"""The gradient and the Fisher trace of a fresh adapter, compared with plain backward passes through peft."""

import numpy as np
import pytest
import torch
from finetune_world import make_world, plain_logits
from torch.nn import functional as F

from finetune.lora.modules import add_lora
from finetune.lora.settings import TrainSettings
from finetune.training import sensitivity
from finetune.training.batches import training_steps
from finetune.training.sensitivity import sensitivities
from interp.model.load import load_vlm
from interp.questions.files import load_questions

SETTINGS = TrainSettings(rank=4, alpha=8, consistency_weight=2.0, answer_weight=0.5)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("sensitivity") / "world", patients=4)


def plain_gradients(world, items):
    """For every question, name -> gradient of the second factors, computed one wording at a time."""
    vlm = load_vlm(world.model, "cpu", "float32")
    adapted = add_lora(vlm, range(vlm.n_layers), SETTINGS.rank, SETTINGS.alpha, 0.0, SETTINGS.seed)
    found = []
    for item in items:
        with torch.enable_grad():
            texts = [text for text in (item.original, item.paraphrase) if text is not None]
            logits = [plain_logits(adapted, vlm.processor, item.image, text) for text in texts]
            target = torch.tensor(vlm.processor.tokenizer(item.answer, add_special_tokens=False)["input_ids"][0])
            loss = 0.5 * sum(F.cross_entropy(x, target) for x in logits) / len(logits)
            if len(logits) == 2:
                p, q = (x.log_softmax(-1) for x in logits)
                loss = loss + 2.0 * F.kl_div(p, q, reduction="sum", log_target=True) / 2
                loss = loss + 2.0 * F.kl_div(q, p, reduction="sum", log_target=True) / 2
            adapted.zero_grad()
            loss.backward()
        found.append({n: p.grad.double().clone() for n, p in adapted.named_parameters() if "lora_B" in n})
    return found


def test_sensitivity_is_that_of_plain_gradients(world, monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setattr(sensitivity, "QUESTIONS", 5)
    questions = load_questions(world.questions, split="train")
    vlm = load_vlm(world.model, "cpu", "float32")
    before = {name: tensor.clone() for name, tensor in vlm.model.state_dict().items()}
    found = sensitivities(vlm, questions, SETTINGS)
    after = vlm.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)

    items = [step.items[0] for step in training_steps(questions, 1, 1, SETTINGS.seed)[:5]]
    assert len({item.original for item in items}) > 1
    gradients = plain_gradients(world, items)
    assert [(s.layer, s.module) for s in found] == [(k, m) for k in range(3) for m in ("attention", "mlp")]
    for each in found:
        path = "self_attn" if each.module == "attention" else "mlp"
        names = [name for name in gradients[0] if f".layers.{each.layer}.{path}." in name]
        assert len(names) == (4 if each.module == "attention" else 3)
        mean = [sum(g[name] for g in gradients) / 5 for name in names]
        assert each.gradient == pytest.approx(float(sum((m**2).sum() for m in mean)) ** 0.5, rel=1e-4)
        squares = [sum(float((g[name] ** 2).sum()) for name in names) for g in gradients]
        assert each.fisher == pytest.approx(np.mean(squares), rel=1e-4)
        assert each.gradient**2 <= each.fisher * (1 + 1e-6), "Jensen"
