"""The regret of each way of choosing layers, on worlds that no rule was tuned on.

    python tests/benchmarks/choosers.py --out choosers --processes 2

The worlds are the shipped one and others, planted if they are missing, with a gate early, in the middle, late and in
two windows. For each, features are found, and every window, third and random set of layers and all layers are trained
with three seeds (`finetune ablate`; both parts of the loss, in float32). Each world's ablation.json gives the choice of
every score of the profile and of the gradient, and its regret. An arm takes about a minute on one CPU core and three
seconds on a GPU, and a world has 60. All worlds run at the same time, with `--processes` each. The same command resumes
an interrupted run.
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

from interp.paths import WORLD
from interp.schemas.layer_list import layers_text, parse_layers
from interp.views.figures.style import (
    ACCENT,
    INK,
    MUTED,
    SCREEN,
    Drawing,
    Size,
    add_legend,
    intervals,
    new_figure,
    save_figures,
    styled,
)

sys.path.insert(0, str(Path(__file__).parent.parent))
from planted import plant_world

SHIPPED, GATE = "shipped", [4, 5]
"""Name of the embedded world, and the layers of its gate."""
WORLDS = [SHIPPED, "early", "middle", "late", "two windows"]
SEED = 9100
"""Seed of the first planted world; the seeds had not been used before."""
STEPS = 150
ARMS = "window,third,random,all,all-matched"
SHOWN = ("combined", "question_flip_rate", "margin_difference", "first_token_accuracy")
POINTS = dict.fromkeys(SHOWN, 100) | {"margin_difference": 1, "text_only_agreement": 100}
"""Metric -> factor from the value in ablation.json to the shown one."""
ROWS = {"margin_difference": "margin difference [logits] ↓", "combined": "combined score [points] ↑"}
"""Metric of the figure -> its label, with an arrow in the better direction."""


def planted_in(name: str) -> list[int]:
    """The layers of a world's gate."""
    return GATE if name == SHIPPED else NAMED[name][0]


def one_world(folder: Path, seed: int, options: argparse.Namespace) -> str:
    """Search and ablate in `folder`, skipping what is done; return what went wrong, or an empty text."""
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
        ablate = [
            "-m",
            "finetune",
            "ablate",
            *data,
            *limit,
            "--layers-from",
            str(folder / "run" / "layers.json"),
        ]
        ablate += ["--out", str(folder / "ablation"), "--seeds", options.seeds, "--arms", ARMS]
        code = subprocess.run([sys.executable, *launch, *ablate], stdout=log, stderr=log, check=False).returncode
    return f"ablate ended with {code}" if code else ""


def rules_of(folder: Path, name: str) -> list[dict[str, Any]]:
    """One row per score and metric with the chosen window and its regret, and rows for the range that was chosen."""
    found = json.loads((folder / "ablation" / "ablation.json").read_text())
    about = {"world": name, "planted": layers_text(planted_in(name))}
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
    """One row per arm."""
    found = json.loads((folder / "ablation" / "ablation.json").read_text())
    base = {"name": "base", "metrics": found["base"], "parameters": 0}
    return [
        {"world": name, "planted": layers_text(planted_in(name)), "arm": arm["name"], "kind": arm.get("kind", "base")}
        | {
            "layers": layers_text(arm.get("layers", [])),
            "parameters": arm["parameters"] / found["arms"][0]["parameters"],
        }
        | {
            f"{metric}{end}": POINTS[metric] * arm["metrics"][metric][key]
            for metric in POINTS
            for key, end in (("value", ""), ("low", "_low"), ("high", "_high"))
        }
        | {
            f"{metric}_against_chosen{end}": POINTS[metric] * arm["against_chosen"][metric][key]
            for metric in SHOWN
            for key, end in (("value", ""), ("low", "_low"), ("high", "_high"))
            if "against_chosen" in arm
        }
        for arm in [base, *found["arms"]]
    ]


def windows_drawing(arms: pd.DataFrame) -> Drawing:
    """The window arms of every world."""
    windows = arms[arms["kind"].isin(["chosen", "window"])]
    return Drawing("windows", windows, lambda size: windows_figure(windows, size))


def windows_figure(windows: pd.DataFrame, size: Size = SCREEN) -> Any:
    """Draw a column per world and a row per metric, with a bar over each window's layers at its value and interval."""
    worlds = list(windows["world"].unique())
    with styled(size):
        figure, axes = new_figure(size, 4.2, len(ROWS), len(worlds), sharex=True, sharey="row")
        for place, ax in enumerate(axes):
            metric, world = list(ROWS)[place // len(worlds)], worlds[place % len(worlds)]
            here = windows[windows["world"] == world]
            for number, layer in enumerate(parse_layers(here["planted"].iloc[0], range(100), 100)):
                ax.axvspan(layer - 0.5, layer + 0.5, color=MUTED, alpha=0.25, lw=0, label=None if number else "gate")
            for kind, arms in here.groupby("kind"):
                style = {"color": ACCENT, "lw": 2.5} if kind == "chosen" else {"color": INK, "lw": 1.1}
                spans = [parse_layers(text, range(100), 100) for text in arms["layers"]]
                for (first, *_, last), value in zip(spans, arms[metric], strict=True):
                    ax.plot([first - 0.35, last + 0.35], [value, value], **style)
                ends = {"value": arms[metric], "low": arms[f"{metric}_low"], "high": arms[f"{metric}_high"]}
                middles = [(span[0] + span[-1]) / 2 for span in spans]
                label = "the range found" if kind == "chosen" else "another window"
                intervals(ax, middles, pd.DataFrame(ends), ls="none", marker="none", label=label, color=style["color"])
            if place < len(worlds):
                ax.set_title(world)
            else:
                ax.set_xlabel("layer")
                ax.set_xticks(range(0, 10, 3))
        for row, label in enumerate(ROWS.values()):
            axes[row * len(worlds)].set_ylabel(label)
        add_legend(axes, size, below=True)
    return figure


def main() -> None:
    """Run what is missing, print arms and rules, and write them as CSV."""
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
        runs = {
            name: pool.submit(one_world, folder, seeds[name], options)
            for name, folder in folders.items()
            if not (folder / "ablation" / "ablation.json").is_file()
        }
        failed = {name: said for name, run in runs.items() if (said := run.result())}
    for name, said in failed.items():
        print(f"{name}: {said}; see {folders[name] / 'log.txt'}")
    done = {name: folder for name, folder in folders.items() if name not in failed}
    if not done:
        sys.exit(1)
    arms = pd.DataFrame([row for name, folder in done.items() for row in arms_of(folder, name)])
    arms.to_csv(options.out / "arms.csv", index=False, float_format="%.6g")
    print(arms[["world", "arm", "parameters", *POINTS]].round(2).to_string(index=False))
    table = pd.DataFrame([row for name, folder in done.items() for row in rules_of(folder, name)])
    table.to_csv(options.out / "rules.csv", index=False, float_format="%.6g")
    save_figures([windows_drawing(arms)], options.out)
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
