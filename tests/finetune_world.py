"""A tiny untrained world for the tests of finetune, and plain, slow computations for comparison."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from finetune.lora.settings import TrainSettings
from finetune.training.batches import Item
from finetune.training.forward import FirstTokenLogits, batch_losses, build_batch
from finetune.training.loss import Losses, objective_of
from finetune.training.prefix_states import PrefixStates
from interp.demo.model import build_model, build_processor, train_tokenizer
from interp.images.decode import open_image

ANSWERS = ("yes", "no", "pa", "lateral", "mild", "severe", "left", "right", "edema")
WORDINGS = {
    "presence": [
        "Is there an opacity?",
        "Can you see an opacity here?",
        "Is opacification appreciated?",
        "Opacity present?",
    ],
    "abnormality": [
        "Is this abnormal?",
        "Anything wrong in this picture?",
        "Does the study demonstrate an abnormality?",
    ],
    "view": ["Which projection is this?", "What view was taken?"],
    "level": ["How severe is it?", "What is its severity?"],
    "location": ["On which side is it?", "Where does it lie?"],
    "type": ["What kind of opacity is shown?"],
}
UNSEEN = {
    "presence": ["Would you call this an opacity?", "Opacity or not?"],
    "abnormality": ["Normal or not, is it abnormal?"],
}
SIZE = 32


class World(NamedTuple):
    """Paths of the tiny world."""

    model: Path
    """Folder of model and processor, written by save_pretrained."""
    questions: Path
    """questions.jsonl; images/ is next to it."""


def make_world(folder: Path, patients: int = 12, layers: int = 3, width: int = 32) -> World:
    """Build a world: random weights, random images, questions of all types, half of the patients in each split."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    rows = []
    for patient in range(patients):
        image = f"images/{patient}.png"
        Image.fromarray(rng.integers(0, 256, (SIZE, SIZE), dtype=np.uint8)).save(folder / image)
        split = "train" if patient % 2 else "test"
        for type_ in WORDINGS:
            rows.append(_row(f"{patient}-{type_}", image, f"patient{patient}", type_, split, rng))
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = [text for bank in (WORDINGS, UNSEEN) for words in bank.values() for text in words]
    tokenizer = train_tokenizer(texts, ANSWERS)
    model = build_model(tokenizer, SIZE, layers, width, seed=0)
    model.save_pretrained(folder / "model")
    build_processor(tokenizer, SIZE).save_pretrained(folder / "model")
    return World(folder / "model", folder / "questions.jsonl")


def _row(name: str, image: str, patient: str, type_: str, split: str, rng: np.random.Generator) -> dict:
    texts = list(WORDINGS[type_])
    if split == "test" and rng.random() < 0.5:
        texts += UNSEEN.get(type_, [])
    texts = [str(t) for t in rng.permutation(texts)]
    pools = {"view": ["pa", "lateral"], "level": ["mild", "severe"], "location": ["left", "right"], "type": ["edema"]}
    phenomena = ["lexical_substitution", "negation_pattern"]
    return {
        "id": name,
        "image": image,
        "patient": patient,
        "type": type_,
        "question": texts[0],
        "answer": str(rng.choice(pools.get(type_, ["Yes", "no"]))),
        "paraphrases": [{"text": t, "phenomenon": str(rng.choice(phenomena))} for t in texts[1:]],
        "split": split,
    }


def plain_logits(model: torch.nn.Module, processor, image: str, text: str) -> torch.Tensor:
    """Logits of the first answer token, [vocabulary], of one prompt, from plain transformers."""
    content = [{"type": "image", "image": open_image(image)}, {"type": "text", "text": text}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    return model(**inputs).logits[0, -1]


def plain_margin(logits: torch.Tensor, tokenizer) -> float:
    """logsumexp over the yes tokens minus logsumexp over the no tokens; the words come from the vocabulary."""
    words = {index: token.replace("▁", "").lower() for token, index in tokenizer.get_vocab().items()}
    sums = [torch.logsumexp(logits[[i for i in words if words[i] == word]].double(), 0) for word in ("yes", "no")]
    return float(sums[0] - sums[1])


def items_of(questions) -> list[Item]:
    """One item per question, with its last paraphrase."""
    return [
        Item(q.image, q.answer, q.question, q.paraphrases[-1].text if q.paraphrases else None, q.closed)
        for q in questions
    ]


def losses_of(vlm, adapted, items: list[Item], settings: TrainSettings = TrainSettings()) -> Losses:
    """The losses of questions whose images are encoded, without stored states."""
    return batch_losses(FirstTokenLogits(adapted), build_batch(PrefixStates(vlm), items), objective_of(vlm, settings))


def awaken(adapted, seed: int = 0, scale: float = 0.3) -> None:
    """Give an untrained adapter an effect, since its second factor starts at zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.copy_(scale * torch.randn(parameter.shape, generator=generator))
