"""How much of a training's loss is its form, and does the form change the adapter? On the embedded world, or --model.

    python tests/benchmarks/loss_forms.py --base-only           # how much of the base's loss is spelling
    python tests/benchmarks/loss_forms.py --out artifacts/forms  # the same, then one training per form

The cross-entropy of an answer y in the spelling s is -log P(y in any spelling) - log P(s | y in any spelling). The
second part is spelling: it vanishes if the taught spelling is the only one that the model uses, and says nothing about
the answer. Here it is that of the base, on the training questions and the wordings of the first epoch, with which the
training starts.

Each training is that of the README with one setting changed. Its adapter is a folder in --out, and existing folders are
kept, so a stopped run can resume. Losses are comparable only between forms with the same definition; flips and
first-token accuracy, on 200 held-out questions, always are. A training takes a minute on one CPU core.
"""

import argparse
import dataclasses
from pathlib import Path

import pandas as pd
import torch

from finetune.lora.adapter_folder import read_record
from finetune.lora.modules import add_lora
from finetune.lora.settings import TrainSettings
from finetune.training.batches import training_steps
from finetune.training.forward import FirstTokenLogits, batch_losses, build_batch
from finetune.training.loss import objective_of
from finetune.training.prefix_states import PrefixStates
from finetune.training.run import train_and_evaluate
from interp.model.image_tokens import encode_images
from interp.model.spec import ModelSpec
from interp.model.vlm import Vlm
from interp.questions.schema import Question
from interp.questions.spec import DataSpec
from interp.runtime.progress import track

PLAIN = TrainSettings(validate=200)
FORMS = {
    "as by default": {},
    "answers in any spelling": {"spelling": "any"},
    "answers taught to the original wording alone": {"answer_wordings": "original"},
    "sum of both KL": {"divergence": "sum"},
    "KL over yes and no": {"divergence_over": "yes-no"},
    "answers in any spelling, KL over yes and no": {"spelling": "any", "divergence_over": "yes-no"},
    "linear schedule without warm-up, gradient norm .3": {
        "schedule": "linear",
        "warmup_share": 0.0,
        "max_grad_norm": 0.3,
    },
}
"""Name of a form -> what it changes; the last is the optimizer of Google's MedGemma notebook."""


def base_losses(vlm: Vlm, questions: list[Question], settings: TrainSettings) -> pd.DataFrame:
    """One row per question of the first epoch: the parts of its loss in each form [nats]."""
    adapted = add_lora(vlm, [vlm.n_layers - 1])
    encode_images(vlm, [question.image for question in questions])
    forward, frozen = FirstTokenLogits(adapted), PrefixStates(vlm)
    lower, any_spelling, yes_no = (
        objective_of(vlm, dataclasses.replace(settings, **form))
        for form in ({}, {"spelling": "any"}, {"divergence_over": "yes-no"})
    )
    rows = []
    for step in track(training_steps(questions, 1, 8, settings.seed), "base"):
        for item in step.items:
            batch = build_batch(frozen, [item])
            with torch.no_grad():
                found, spelled, answers = (
                    [float(part) for part in batch_losses(forward, batch, objective)]
                    for objective in (lower, any_spelling, yes_no)
                )
            rows.append(
                {
                    "questions": "yes/no" if item.closed else "open",
                    "cross-entropy": found[0],
                    "of it spelling": found[0] - spelled[0],
                    "KL over the vocabulary": found[1],
                    "KL over yes and no": answers[1],
                }
            )
    adapted.unload()
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    """A table as Markdown, with its index as the first column."""
    rows = [["", *table.columns], ["---", *["--:"] * len(table.columns)]]
    rows += [[str(name), *map(str, row)] for name, row in zip(table.index, table.to_numpy(object), strict=True)]
    return "\n".join(f"| {' | '.join(map(str.strip, row))} |" for row in rows)


def main() -> None:
    """Print both tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None, help="base model; by default that of the embedded world")
    parser.add_argument("--questions", type=Path, default=DataSpec().questions)
    parser.add_argument("--layers", default="4-5")
    parser.add_argument("--out", type=Path, default=Path("artifacts/forms"))
    parser.add_argument("--base-only", action="store_true")
    given = parser.parse_args()
    spec = ModelSpec() if given.model is None else ModelSpec(given.model)
    data = DataSpec(given.questions)
    found = base_losses(spec.load(), data.load_splits()[0], PLAIN)
    table = pd.concat([found.groupby("questions").mean(), found.drop(columns="questions").mean().to_frame("all").T])
    table.insert(0, "n", [*found.groupby("questions").size(), len(found)])
    print(markdown(table.round(3)), flush=True)
    if given.base_only:
        return
    rows = {}
    for name, changes in FORMS.items():
        folder = given.out / "-".join(f"{k}={v}" for k, v in changes.items()) if changes else given.out / "default"
        if not folder.is_dir():
            train_and_evaluate(spec, data, folder, dataclasses.replace(PLAIN, **changes), layers=given.layers)
        record = read_record(folder)
        assert record is not None
        last = record.epochs[-1]
        held_out = last.held_out
        assert held_out is not None
        rows[name] = {
            "loss of the first tenth": f"{record.first_loss:.2f}",
            "of the last epoch": f"{last.loss:.3f}",
            "cross-entropy": f"{last.ce:.3f}",
            "divergence": f"{last.kl:.3f}",
            "held-out flips": f"{held_out.question_flip_rate:.1%}",
            "held-out first tokens right": f"{held_out.first_token_accuracy:.1%}",
        }
        print(name, rows[name], flush=True)
    print(markdown(pd.DataFrame(rows).T))


if __name__ == "__main__":
    main()
