"""What each way of choosing layers costs, on worlds with a gate that nobody looked at before.

    python tests/benchmarks/choosers.py --out choosers --processes 2

The shipped world, and others with a gate early, in the middle, late and in two windows, which are planted if they are
not there: finds features, and trains every window, third, random set and allocation with three seeds (`finetune
ablate`; both parts of the loss, in float32). What each score of the profile and of the gradient would have chosen, and
the regret of that, comes from each world's ablation.json. An arm takes about a minute on one CPU core and three seconds
on a GPU; a world has 60. `--processes` are those of one world; all worlds run at the same time. The same command goes
on where it was interrupted.
"""

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
from planted_windows import NAMED

from interp.demo import WORLD
from interp.layers import layers_text

sys.path.insert(0, str(Path(__file__).parent.parent))
from planted import plant_world

SHIPPED, GATE = "shipped", [4, 5]
"""The embedded world, and the layers that its gate was planted into."""
WORLDS = [SHIPPED, "early", "middle", "late", "two windows"]
SEED = 9100
"""Of the first planted world; none of them was looked at before."""
STEPS = 150
ARMS = "window,third,random,all,all-matched,attention,mlp,weighted,weighted-all"
SHOWN = ("combined", "question_flip_rate", "margin_difference", "first_token_accuracy")
POINTS = {"combined": 100, "question_flip_rate": 100, "margin_difference": 1, "first_token_accuracy": 100}


def one_world(folder: Path, seed: int, options: argparse.Namespace) -> str:
    """Search and ablate in `folder`, each unless it is there; returns what went wrong, if anything."""
    world = WORLD if folder.name == SHIPPED else folder
    data = ["--model", str(world / "planted"), "--questions", str(world / "questions.jsonl")]
    data += ["--device", options.device, "--dtype", "float32"]
    limit = ["--limit", str(options.limit)] if options.limit else []
    with (folder / "log.txt").open("a") as log:
        if not (folder / "run" / "layers.json").is_file():
            find = ["-m", "interp", "find-features", *data, "--split", "train", "--out", str(folder / "run")]
            code = subprocess.run([sys.executable, *find], stdout=log, stderr=log, check=False).returncode
            if code:
                return f"find-features ended with {code}"
        launch = ["-m", "accelerate.commands.launch", "--num_processes", str(options.processes)]
        launch += ["--cpu"] if options.device == "cpu" else ["--multi_gpu"] if options.processes > 1 else []
        launch += ["--main_process_port", str(29500 + seed % 400)] if options.processes > 1 else []
        ablate = ["-m", "finetune.cli", "ablate", *data, *limit, "--layers-from", str(folder / "run" / "layers.json")]
        ablate += ["--out", str(folder / "ablation"), "--seeds", options.seeds, "--arms", ARMS]
        code = subprocess.run([sys.executable, *launch, *ablate], stdout=log, stderr=log, check=False).returncode
    return f"ablate ended with {code}" if code else ""


def rules_of(folder: Path, name: str) -> list[dict[str, Any]]:
    """One row a score and metric: the window it takes, its regret with interval; beside them the chosen range's own."""
    found = json.loads((folder / "ablation" / "ablation.json").read_text())
    planted = GATE if name == SHIPPED else NAMED[name][0]
    about = {"world": name, "planted": layers_text(planted)}
    rhos = {(w["score"], w["metric"]): w["rho"]["value"] for w in found["worth"]}
    own = {"score": "chosen range", "arm": found["arms"][0]["name"]}
    rows = [own | {"regret": {each["metric"]: each["regret"] for each in found["regret"]}}, *found["rules"]]
    return [
        about
        | {"score": rule["score"], "window": (rule["arm"] or "-").split(" ")[-1], "metric": metric}
        | {k: None if v is None else v * POINTS[metric] for k, v in rule["regret"][metric].items()}
        | {"rho": rhos.get((rule["score"], metric))}
        for rule in rows
        for metric in SHOWN
    ]


def arms_of(folder: Path, name: str) -> list[dict[str, Any]]:
    """One row an arm."""
    found = json.loads((folder / "ablation" / "ablation.json").read_text())
    base = {"name": "base", "metrics": found["base"], "parameters": 0}
    return [
        {"world": name, "arm": arm["name"], "parameters": arm["parameters"] / found["arms"][0]["parameters"]}
        | {metric: f"{POINTS[metric] * arm['metrics'][metric]['value']:.2f}" for metric in SHOWN}
        | {"text_only_agreement": f"{100 * arm['metrics']['text_only_agreement']['value']:.1f}"}
        for arm in [base, *found["arms"]]
    ]


def main() -> None:
    """Run what is not there, print arms and rules, and write them as CSV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--worlds", nargs="*", default=WORLDS, choices=WORLDS)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--limit", type=int, default=None)
    options = parser.parse_args()
    folders = {name: options.out / name.replace(" ", "-") for name in options.worlds}
    seeds = {name: SEED + [*NAMED, SHIPPED].index(name) for name in folders}
    for name, folder in folders.items():
        folder.mkdir(parents=True, exist_ok=True)
        if name != SHIPPED and not (folder / "planted").is_dir():
            plant_world(folder, WORLD, *NAMED[name], seeds[name], STEPS)
    with ThreadPoolExecutor(len(folders)) as pool:
        runs = {name: pool.submit(one_world, folder, seeds[name], options) for name, folder in folders.items()}
        failed = {name: said for name, run in runs.items() if (said := run.result())}
    for name, said in failed.items():
        print(f"{name}: {said}; see {folders[name] / 'log.txt'}")
    done = {name: folder for name, folder in folders.items() if name not in failed}
    if not done:
        sys.exit(1)
    arms = pd.DataFrame([row for name, folder in done.items() for row in arms_of(folder, name)])
    arms.to_csv(options.out / "arms.csv", index=False)
    print(arms.round(2).to_string(index=False))
    table = pd.DataFrame([row for name, folder in done.items() for row in rules_of(folder, name)])
    table.to_csv(options.out / "rules.csv", index=False)
    for metric, part in table.groupby("metric", sort=False):
        wide = part.pivot(index="score", columns="world", values="value")
        taken = part.pivot(index="score", columns="world", values="window")
        shown = taken + ": " + wide.map("{:+.2f}".format)
        shown["mean"] = wide.mean(axis=1).map("{:+.2f}".format)
        print(f"\nregret, {metric}\n{shown.loc[part['score'].unique()].to_string()}")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
