"""Does each rule find gates in worlds that it was not tuned on? Plant gates and compare the found ranges with them.

    python tests/benchmarks/planted_windows.py --worlds 16 --seed 1000 --out windows.csv
    python tests/benchmarks/planted_windows.py --named --worlds 30 --seed 3000 --out named.csv

A gate's first layer, width (1 to 4) and strength (0.4 to 0.8) are drawn at random, and every fifth world has no gate.
With `--named` the worlds are those of NAMED in turn, with new seeds in every round. A world takes about a minute on two
CPU cores and ten seconds on a GPU. `--bases` names further built worlds (`interp demo build`), which are used in turn.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from interp.model.load import load_vlm
from interp.paths import WORLD
from interp.profile.ranges import overlap
from interp.questions.files import load_questions
from interp.saes.locate import locate_saes
from interp.search.find import find_features

sys.path.insert(0, str(Path(__file__).parent.parent))
from planted import plant_world

NAMED: dict[str, tuple[list[int], float]] = {
    "early": ([1, 2], 0.5),
    "middle": ([4, 5], 0.5),
    "late": ([7, 8], 0.5),
    "weak": ([4, 5], 0.25),
    "two windows": ([2, 7], 0.5),
    "no gate": ([], 0.0),
}
"""Name -> the layers of the planted gate, and its strength."""


def drawn_case(n_layers: int, number: int, seed: int) -> tuple[str, list[int], float]:
    """A gate of random place, width and strength; none in every fifth world."""
    rng = np.random.default_rng(seed)
    width = int(rng.integers(1, 5))
    first = int(rng.integers(0, n_layers - width + 1))
    strength = round(float(rng.uniform(0.4, 0.8)), 2)
    return ("no gate", [], 0.0) if number % 5 == 4 else ("drawn", list(range(first, first + width)), strength)


def one_world(base: Path, case: tuple[str, list[int], float], seed: int, steps: int) -> list[dict[str, object]]:
    """Plant, search and compare; returns one row per rule."""
    name, window, strength = case
    with tempfile.TemporaryDirectory() as folder:
        world = plant_world(Path(folder), base, window, strength, seed, steps)
        vlm = load_vlm(world / "planted", "auto", "float32")
        asked = load_questions(world / "questions.jsonl", split="train")
        found = find_features(vlm, locate_saes(base / "saes"), asked, split="train").artifact
    planted = ",".join(map(str, window)) if window else "none"
    about: dict[str, object] = {"world": seed, "base": base.name, "case": name, "planted": planted}
    about |= {"strength": strength, "flips": found.data.question_flip_rate.value}
    beat = [f for f in found.features if f.causal and (f.causal.net.low or 0) > 0 and (f.causal.p or 1) < 0.05]
    about |= {"verdict": found.verdict, "features that beat their controls": len(beat)}
    return [
        about
        | {
            "rule": r.rule,
            "found": f"{r.first}-{r.last}",
            "iou": overlap(range(r.first, r.last + 1), window),
        }
        for r in found.ranges
    ]


def main() -> None:
    """Run every world, print the table and the mean overlap of each rule."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--bases", type=Path, nargs="*", default=[WORLD])
    parser.add_argument("--named", action="store_true")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    rows = []
    for number in range(options.worlds):
        base = options.bases[number % len(options.bases)]
        seed = options.seed + number
        name = list(NAMED)[number % len(NAMED)]
        drawn = drawn_case(len(locate_saes(base / "saes")), number, seed)
        rows += one_world(base, (name, *NAMED[name]) if options.named else drawn, seed, options.steps)
        wide = pd.DataFrame(rows[-3:]).pivot(index=["world", "planted", "flips"], columns="rule", values="found")
        print(wide.to_string(header=number == 0), rows[-1]["verdict"], flush=True)
    table = pd.DataFrame(rows)
    if options.out:
        table.to_csv(options.out, index=False)
    gated = table[table["planted"] != "none"]
    by_rule = gated.groupby("rule")["iou"]
    print(pd.DataFrame({"mean IoU": by_rule.mean(), "touches": by_rule.agg(lambda x: (x > 0).mean())}).round(2))
    print(gated.pivot_table(index="case", columns="rule", values="iou").round(2).to_string())
    print(gated.drop_duplicates("world")["verdict"].value_counts().rename("planted worlds").to_string())
    clean = table[table["planted"] == "none"].drop_duplicates("world")
    print(clean["verdict"].value_counts().rename("worlds without a gate").to_string())


if __name__ == "__main__":
    main()
