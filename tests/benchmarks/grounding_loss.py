"""Does a grounding term keep an adapter looking at the image? Trains the arms to compare, on the embedded world.

    python tests/benchmarks/grounding_loss.py --seeds 3 --out artifacts/grounding
    finetune evaluate artifacts/grounding/published-0 artifacts/grounding/blank-0 artifacts/grounding/swap-0

The published loss, and with each grounding term; then the three again under stress, with a consistency weight that
rewards the same answer to every wording ten times as much. The arms of a seed meet the same questions in the same order
and wordings. Each is a folder as `finetune` writes it; those already there are kept, so that a stopped run goes on.
About two minutes an arm on two CPU cores.
"""

import argparse
import dataclasses
import time
from pathlib import Path

from finetune.run import train_and_evaluate
from finetune.settings import TrainSettings
from interp.demo import WORLD

PUBLISHED = TrainSettings()
STRESS = dataclasses.replace(PUBLISHED, consistency_weight=10.0)
ARMS = {
    "published": PUBLISHED,
    "blank": dataclasses.replace(PUBLISHED, grounding="blank"),
    "swap": dataclasses.replace(PUBLISHED, grounding="swap"),
    "stress": STRESS,
    "stress-blank": dataclasses.replace(STRESS, grounding="blank"),
    "stress-swap": dataclasses.replace(STRESS, grounding="swap"),
}
"""Name -> how it is trained, but for the seed."""


def main() -> None:
    """Train every arm of every seed that is not there yet, into `--out`/ARM-SEED."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--layers", default="4-5")
    parser.add_argument("--epochs", type=int, default=PUBLISHED.epochs)
    parser.add_argument("--limit", type=int, default=None, help="first N questions of each split, to try it out")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    for seed in range(options.seeds):
        for arm in options.arms:
            folder = options.out / f"{arm}-{seed}"
            if folder.exists():
                print(folder, "kept")
                continue
            settings = dataclasses.replace(ARMS[arm], epochs=options.epochs, seed=seed)
            started = time.monotonic()
            train_and_evaluate(
                str(WORLD / "planted"),
                WORLD / "questions.jsonl",
                folder,
                settings,
                options.layers,
                dtype="float32",
                limit=options.limit,
            )
            print(folder, f"{time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
