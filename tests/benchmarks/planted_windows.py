"""Does each rule find windows that nobody looked at? Plants gates at random layers and compares the ranges found.

    python tests/benchmarks/planted_windows.py --worlds 16 --seed 1000 --out windows.csv

A gate's first layer, width (1 to 4) and strength (0.4 to 0.8) are drawn at random; every fifth world has no gate.
About a minute a world on two CPU cores. `--bases` names further built worlds (`interp demo build`), used in turn.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from interp.demo import WORLD
from interp.find import find_features
from interp.layers import overlap
from interp.questions import load_questions
from interp.sae_sources import locate_saes
from interp.vlm import load_vlm

sys.path.insert(0, str(Path(__file__).parent.parent))
from planted import plant_world


def one_world(base: Path, number: int, seed: int, steps: int) -> list[dict[str, object]]:
    """Plant, search, and compare: one row a rule."""
    rng = np.random.default_rng(seed)
    n_layers = len(locate_saes(base / "saes"))
    width = int(rng.integers(1, 5))
    first = int(rng.integers(0, n_layers - width + 1))
    strength = round(float(rng.uniform(0.4, 0.8)), 2)
    window = [] if number % 5 == 4 else list(range(first, first + width))
    with tempfile.TemporaryDirectory() as folder:
        world = plant_world(Path(folder), base, window, strength, seed, steps)
        vlm = load_vlm(world / "planted", "auto", "float32")
        asked = load_questions(world / "questions.jsonl", split="train")
        found = find_features(vlm, locate_saes(base / "saes"), asked, split="train").artifact
    about = {"world": seed, "base": base.name, "planted": f"{window[0]}-{window[-1]}" if window else "none"}
    about |= {"strength": strength if window else 0.0, "flips": found.data.question_flip_rate.value}
    beat = [f for f in found.features if f.causal and (f.causal.net.low or 0) > 0 and (f.causal.p or 1) < 0.05]
    about |= {"verdict": found.verdict, "features that beat their controls": len(beat)}
    return [
        about
        | {
            "rule": r.rule if r.rule == r.profile else f"{r.rule} {r.profile}",
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
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    rows = []
    for number in range(options.worlds):
        base = options.bases[number % len(options.bases)]
        rows += one_world(base, number, options.seed + number, options.steps)
        wide = pd.DataFrame(rows[-7:]).pivot(index=["world", "planted", "flips"], columns="rule", values="found")
        print(wide.to_string(header=number == 0), rows[-1]["verdict"], flush=True)
    table = pd.DataFrame(rows)
    if options.out:
        table.to_csv(options.out, index=False)
    gated = table[table["planted"] != "none"]
    by_rule = gated.groupby("rule")["iou"]
    print(pd.DataFrame({"mean IoU": by_rule.mean(), "touches": by_rule.agg(lambda x: (x > 0).mean())}).round(2))
    print(gated.drop_duplicates("world")["verdict"].value_counts().rename("planted worlds").to_string())
    clean = table[table["planted"] == "none"].drop_duplicates("world")
    print(clean["verdict"].value_counts().rename("worlds without a gate").to_string())


if __name__ == "__main__":
    main()
