"""Does a grounding term keep an adapter dependent on the image? Train the arms to compare, on the embedded world.

    python tests/benchmarks/grounding_loss.py --out artifacts/grounding
    finetune evaluate artifacts/grounding/published-0 artifacts/grounding/blank-0 artifacts/grounding/swap-0

The arms are the published loss alone and with each grounding term; the same three under stress, with ten times the
consistency weight, which rewards equal answers to all wordings; and both weights so large that true answers hardly
count and only a grounding term opposes answering everything alike. The arms of a seed see the same questions in the
same order and wordings. Each is written as a `finetune` folder. Existing folders are kept, so a stopped run can resume.
An arm takes about two minutes on two CPU cores.

With `--told-by-text .95` the training becomes a trap: of the training questions on presence whose answer does not
follow from the finding alone (yes to one half of the findings, no to the other), 95% are left out. The text then
predicts most answers, as in real data, while the test questions stay balanced. With `--relabel` these questions are
kept but get the answer that the finding predicts, which teaches the model to ignore the image.
"""

import argparse
import dataclasses
import time
from pathlib import Path

import numpy as np

from finetune.lora.settings import TrainSettings
from finetune.training.run import train_and_evaluate
from interp.model.spec import ModelSpec
from interp.paths import WORLD
from interp.questions.files import load_questions, split_of, write_questions
from interp.questions.lexicon import named_finding
from interp.questions.schema import Question
from interp.questions.spec import DataSpec

PUBLISHED = TrainSettings()
STRESS = dataclasses.replace(PUBLISHED, consistency_weight=10.0)
ALONE = dataclasses.replace(PUBLISHED, consistency_weight=1000.0, grounding_weight=1000.0)
ARMS = {
    "published": PUBLISHED,
    "blank": dataclasses.replace(PUBLISHED, grounding="blank"),
    "swap": dataclasses.replace(PUBLISHED, grounding="swap"),
    "stress": STRESS,
    "stress-blank": dataclasses.replace(STRESS, grounding="blank"),
    "stress-swap": dataclasses.replace(STRESS, grounding="swap"),
    "alone": ALONE,
    "alone-blank": dataclasses.replace(ALONE, grounding="blank"),
    "alone-swap": dataclasses.replace(ALONE, grounding="swap"),
}
"""Name of an arm -> its training settings, except the seed."""


def told_by_text(questions: list[Question], share: float, relabel: bool) -> list[Question]:
    """The questions, with `share` of those that the finding mispredicts removed or answered as it predicts."""
    rng = np.random.default_rng(0)
    findings = sorted({named_finding(q.question) for q in questions if q.type == "presence"} - {"other"})
    yes = findings[: len(findings) // 2]
    kept = []
    for question in questions:
        texts = (question.question, *(p.text for p in question.paraphrases))
        finding = next((name for name in map(named_finding, texts) if name != "other"), "other")
        contrary = (finding in yes) != (question.answer == "yes")
        trapped = question.type == "presence" and finding != "other" and split_of(question) == "train"
        if not (trapped and contrary and rng.random() < share):
            kept.append(question)
        elif relabel:
            kept.append(question.model_copy(update={"answer": "yes" if finding in yes else "no"}))
    return kept


def main() -> None:
    """Train every missing arm of every seed into `--out`/ARM-SEED."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--layers", default="4-5")
    parser.add_argument("--epochs", type=int, default=PUBLISHED.epochs)
    parser.add_argument("--limit", type=int, default=None, help="first N questions of each split, to try it out")
    parser.add_argument("--told-by-text", type=float, default=0.0, help="share of the contrary questions left out")
    parser.add_argument("--relabel", action="store_true", help="answer them as the text tells instead")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    questions = WORLD / "questions.jsonl"
    if options.told_by_text:
        questions = options.out / "questions.jsonl"
        asked = told_by_text(load_questions(WORLD / "questions.jsonl"), options.told_by_text, options.relabel)
        write_questions(asked, questions, WORLD)
    for seed in options.seeds:
        for arm in options.arms:
            folder = options.out / f"{arm}-{seed}"
            if folder.exists():
                print(folder, "kept")
                continue
            settings = dataclasses.replace(ARMS[arm], epochs=options.epochs, seed=seed)
            started = time.monotonic()
            train_and_evaluate(
                ModelSpec(dtype="float32"),
                DataSpec(questions, WORLD, limit=options.limit),
                folder,
                settings,
                layers=options.layers,
            )
            print(folder, f"{time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
