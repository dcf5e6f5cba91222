"""How much of a training's loss is its form, and does the form change the adapter? On the embedded world, or --model.

    python tests/benchmarks/loss_forms.py --base-only           # how much of the base's loss is spelling
    python tests/benchmarks/loss_forms.py --out artifacts/forms.csv  # the same, then one training per form

The cross-entropy of an answer y in the spelling s is -log P(y in any spelling) - log P(s | y in any spelling). The
second part is spelling: it vanishes if the taught spelling is the only one that the model uses, and says nothing about
the answer. Here it is that of the base, on the training questions and the wordings of the first epoch, with which the
training starts.

Each training is that of the README with one setting changed, without its evaluation; finished ones are kept in --out.
Losses are comparable only between forms with the same definition; flips and first-token accuracy, on 200 held-out
questions, always are. A training takes a minute on one CPU core; --limit trains on fewer questions.
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from finetune.lora.modules import add_lora
from finetune.lora.settings import TrainSettings
from finetune.training.batches import training_steps
from finetune.training.forward import FirstTokenLogits, batch_losses, build_batch
from finetune.training.loop import accelerator_for, train
from finetune.training.loss import objective_of
from finetune.training.prefix_states import PrefixStates
from finetune.training.validation import Validation
from interp.model.image_tokens import encode_images
from interp.model.spec import ModelSpec
from interp.model.vlm import Vlm
from interp.questions.schema import Question
from interp.questions.spec import DataSpec
from interp.runtime.progress import track
from interp.schemas.layer_list import parse_layers

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
"""Name of a form -> what it changes; the last has the schedule and the clipping of Google's MedGemma notebook."""


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


def trained(vlm: Vlm, data: DataSpec, layers: list[int], settings: TrainSettings) -> dict[str, str]:
    """Train an adapter, leave the base as it was, and give the row of the table."""
    taught, asked = data.load_splits()
    adapted = add_lora(vlm, layers, settings.rank, settings.alpha, settings.dropout, settings.seed)
    try:
        steps = training_steps(taught, settings.epochs, settings.batch_size, settings.seed)
        accelerator = accelerator_for(vlm.device.type)
        validation = Validation(vlm, adapted, accelerator, settings, taught, asked)
        history = train(vlm, adapted, steps, settings, accelerator, validation=validation)
    finally:
        adapted.unload()
    first, last = history[: len(history) // 10], [step for step in history if step.epoch == settings.epochs]
    held_out = validation.scores[-1]
    return {
        "loss of the first tenth": f"{np.mean([step.loss for step in first]):.2f}",
        "of the last epoch": f"{np.mean([step.loss for step in last]):.3f}",
        "cross-entropy": f"{np.mean([step.ce for step in last]):.3f}",
        "divergence": f"{np.mean([step.kl for step in last]):.3f}",
        "held-out flips": f"{held_out.question_flip_rate:.1%}",
        "held-out first tokens right": f"{held_out.first_token_accuracy:.1%}",
    }


def main() -> None:
    """Print both tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None, help="base model; by default that of the embedded world")
    parser.add_argument("--questions", type=Path, default=DataSpec().questions)
    parser.add_argument("--layers", default="4-5")
    parser.add_argument("--limit", type=int, default=None, help="number of questions of each split")
    parser.add_argument("--out", type=Path, default=Path("artifacts/forms.csv"))
    parser.add_argument("--base-only", action="store_true")
    given = parser.parse_args()
    vlm = ModelSpec(given.model).load()
    data = DataSpec(given.questions, limit=given.limit)
    found = base_losses(vlm, data.load_splits()[0], PLAIN)
    table = pd.concat([found.groupby("questions").mean(), found.drop(columns="questions").mean().to_frame("all").T])
    table.insert(0, "n", [*found.groupby("questions").size(), len(found)])
    print(markdown(table.round(3)), flush=True)
    if given.base_only:
        return
    done = pd.read_csv(given.out, index_col=0, dtype=str) if given.out.is_file() else pd.DataFrame()
    layers = parse_layers(given.layers, range(vlm.n_layers), vlm.n_layers)
    for name, changes in FORMS.items():
        if name not in done.index:
            row = trained(vlm, data, layers, dataclasses.replace(PLAIN, **changes))
            done = pd.concat([done, pd.DataFrame(row, index=[name])])
            done.to_csv(given.out)
            print(name, row, flush=True)
    print(markdown(done))


if __name__ == "__main__":
    main()
