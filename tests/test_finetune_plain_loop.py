"""The trainer against a plain loop over single prompts in transformers and peft, with each option of the loss and of
the optimizer switched on."""

import dataclasses
import math

import pytest
import torch
from finetune_world import make_world, plain_logits
from peft import LoraConfig, get_peft_model
from torch.nn import functional as F
from transformers import AutoModelForImageTextToText, AutoProcessor

from finetune.lora.modules import add_lora
from finetune.lora.settings import TrainSettings
from finetune.training.batches import training_steps
from finetune.training.loop import accelerator_for, train
from interp.model.load import load_vlm
from interp.questions.files import load_questions

LAYERS = [1, 2]
PLAIN = TrainSettings(rank=4, alpha=8, dropout=0.0, lr=5e-3, batch_size=4, epochs=2)
OPTIONS = {
    "as by default": {},
    "line": {"schedule": "linear", "warmup_share": 0.3},
    "constant, without warm-up": {"schedule": "constant", "warmup_share": 0.0},
    "strong decay": {"weight_decay": 0.5},
    "no decay": {"weight_decay": 0.0},
    "tight clipping": {"max_grad_norm": 0.05},
    "no clipping": {"max_grad_norm": 0.0, "lr": 2e-3},
    "sum of both KL": {"divergence": "sum"},
    "KL of yes and no": {"divergence_over": "yes-no", "consistency_weight": 3.0},
    "answers of originals": {"answer_wordings": "original"},
    "any spelling": {"spelling": "any"},
    "all together": {
        "schedule": "linear",
        "warmup_share": 0.2,
        "weight_decay": 0.2,
        "max_grad_norm": 0.3,
        "divergence": "sum",
        "divergence_over": "yes-no",
        "answer_wordings": "original",
        "spelling": "any",
        "answer_weight": 0.7,
    },
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    torch.set_num_threads(1)
    return make_world(tmp_path_factory.mktemp("plain") / "world", patients=4)


@pytest.fixture(scope="module")
def questions(world):
    return load_questions(world.questions, split="train")


def loss_by_hand(logits, item, tokenizer, yes_no, settings):
    """The loss of one question from the logits of its wordings, as the page of finetune writes it."""
    taught = logits if settings.answer_wordings == "both" else logits[:1]
    if settings.spelling == "any":
        spelled = (item.answer, item.answer.capitalize(), f" {item.answer}")
        tokens = {tokenizer(each, add_special_tokens=False)["input_ids"][0] for each in spelled}
        right = [i for i in tokens if tokenizer.decode([i]).strip().lower() == item.answer]
        ce = -sum(x.softmax(-1)[right].sum().log() for x in taught) / len(taught)
    else:
        target = torch.tensor(tokenizer(item.answer, add_special_tokens=False)["input_ids"][0])
        ce = sum(F.cross_entropy(x, target) for x in taught) / len(taught)
    kl = torch.zeros(())
    if len(logits) == 2:
        p, q = (x.softmax(-1) for x in logits)
        if settings.divergence_over == "yes-no" and item.closed:
            p, q = (torch.stack([x[ids].sum() for ids in yes_no]) for x in (p, q))
            p, q = p / p.sum(), q / q.sum()
        kl = (p * (p / q).log()).sum() + (q * (q / p).log()).sum()
        kl = kl / 2 if settings.divergence == "mean" else kl
    return settings.answer_weight * ce + settings.consistency_weight * kl


def rate_by_hand(step, steps, settings):
    """Learning rate of a step, from 0."""
    warmup = math.ceil(settings.warmup_share * steps)
    if step < warmup:
        return settings.lr * (step + 1) / (warmup + 1)
    left = (steps - step) / (steps - warmup)
    shares = {"constant": 1.0, "linear": left, "cosine": math.sin(math.pi / 2 * left) ** 2}
    return settings.lr * shares[settings.schedule]


def plain_training(world, steps, settings):
    """Losses and weights of a loop over single prompts; AdamW, clipping and schedule are written out."""
    model = AutoModelForImageTextToText.from_pretrained(world.model)
    processor = AutoProcessor.from_pretrained(world.model)
    pattern = rf"model\.language_model\.layers\.({'|'.join(map(str, LAYERS))})\..*_proj"
    torch.manual_seed(settings.seed)
    adapted = get_peft_model(model, LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=pattern))
    named = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    first = {name: torch.zeros_like(p) for name, p in named.items()}
    second = {name: torch.zeros_like(p) for name, p in named.items()}
    words = {i: t.replace("▁", "").lower() for t, i in processor.tokenizer.get_vocab().items()}
    yes_no = [[i for i, word in words.items() if word == answer] for answer in ("yes", "no")]
    losses, norms = [], []
    for number, step in enumerate(steps):
        total = torch.zeros(())
        for item in step.items:
            texts = [text for text in (item.original, item.paraphrase) if text is not None]
            logits = [plain_logits(adapted, processor, item.image, text) for text in texts]
            total = total + loss_by_hand(logits, item, processor.tokenizer, yes_no, settings) / len(step.items)
        adapted.zero_grad()
        total.backward()
        norm = math.sqrt(sum(float(p.grad.double().square().sum()) for p in named.values()))
        scale = min(1.0, settings.max_grad_norm / norm) if settings.max_grad_norm else 1.0
        rate = rate_by_hand(number, len(steps), settings)
        with torch.no_grad():
            for name, p in named.items():
                gradient = scale * p.grad
                first[name] = 0.9 * first[name] + 0.1 * gradient
                second[name] = 0.999 * second[name] + 0.001 * gradient**2
                mean, square = first[name] / (1 - 0.9 ** (number + 1)), second[name] / (1 - 0.999 ** (number + 1))
                p -= rate * settings.weight_decay * p + rate * mean / (square.sqrt() + 1e-8)
        losses.append(total.item())
        norms.append(norm)
    return losses, norms, {name: p.detach() for name, p in named.items()}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_losses_and_weights_are_those_of_a_plain_loop(world, questions, options):
    settings = dataclasses.replace(PLAIN, **options)
    steps = training_steps(questions, settings.epochs, settings.batch_size, settings.seed)
    vlm = load_vlm(world.model, "cpu", "float32")
    adapted = add_lora(vlm, LAYERS, settings.rank, settings.alpha, settings.dropout, settings.seed)
    history = train(vlm, adapted, steps, settings, accelerator_for("cpu"))
    losses, norms, weights = plain_training(world, steps, settings)
    assert [record.loss for record in history] == pytest.approx(losses, rel=2e-5)
    assert [record.grad_norm for record in history] == pytest.approx(norms, rel=1e-3)
    if 0 < settings.max_grad_norm < 1:
        assert min(norms) > settings.max_grad_norm, "every step is clipped"
    found = {name: p.detach() for name, p in adapted.named_parameters() if p.requires_grad}
    assert found.keys() == weights.keys()
    apart = torch.cat([(found[name] - weight).abs().flatten() for name, weight in weights.items()])
    assert apart.mean() < 2e-7
    # Where a gradient is nearly zero, AdamW takes its rounding for a direction: a fiftieth of one step.
    assert apart.max() < settings.lr / 50


def test_each_option_makes_another_adapter(world, questions):
    """Otherwise the comparison above would show nothing."""
    found = []
    for options in OPTIONS.values():
        settings = dataclasses.replace(PLAIN, **options)
        vlm = load_vlm(world.model, "cpu", "float32")
        adapted = add_lora(vlm, LAYERS, settings.rank, settings.alpha, settings.dropout, settings.seed)
        steps = training_steps(questions, settings.epochs, settings.batch_size, settings.seed)
        train(vlm, adapted, steps, settings, accelerator_for("cpu"))
        found.append(torch.cat([p.detach().flatten() for p in adapted.parameters() if p.requires_grad]))
    for i, one in enumerate(found):
        for other in found[:i]:
            assert (one - other).abs().mean() > 2e-6
