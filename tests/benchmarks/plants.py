"""Does `find-features` name the feature and the place of gates that are planted at random, and none where none is?

    python tests/benchmarks/plants.py --plants 24 --seed 100 --out plants.csv
    python tests/benchmarks/plants.py --plants 4 --seed 300 --kinds casual weak two relay --out kinds.csv
    python tests/benchmarks/plants.py --read plants.csv kinds.csv

A plant draws a layer, one of its features that differ between registers, a later layer that writes, and a strength;
every fourth model is a decoy without a gate. The search knows none of this. The seeds 100 to 1381, 1600 to 1607, 3000
to 3440 and 4000 to 4407 have been used: judge a rule that has changed on others. The table has a row for every feature
that today's or the former way of choosing candidates proposes, with its exact patch, and what the search calls it. A
plant takes 3 to 5 minutes on one CPU core. `--read` prints the counts of earlier runs, with exact 95% intervals.
"""

import argparse
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from statsmodels.stats.proportion import proportion_confint

from interp.causal.feature_patching import apply_feature_patches, feature_patches
from interp.causal.layer_patching import PatchTarget
from interp.demo.plants import Gate, Plant, plant_decoys, plant_gates
from interp.measurement.margins import measure
from interp.model.load import load_vlm
from interp.model.vlm import Vlm
from interp.paths import WORLD
from interp.profile.places import writing_layers
from interp.questions.files import load_questions
from interp.questions.schema import Question
from interp.questions.tables import prompt_table
from interp.runtime.errors import InputError
from interp.saes.locate import locate_saes
from interp.saes.sae import load_sae
from interp.screening.flips import Halves, questions_that_can_flip, sample_pairs
from interp.screening.sae_inputs import SaeInputs
from interp.search.family_stage import patch_families
from interp.search.gate import name_gate
from interp.search.layer_stage import judge_layers, patch_whole_layers
from interp.search.settings import FindSettings
from interp.search.stages import (
    CANDIDATES,
    begin_screening,
    flips_and_halves,
    measure_prompts,
    patch_candidates,
    sae_inputs,
    screen,
)
from interp.search.task import Search, Task

DECOYS = 4
"""Every so many models have no gate."""
TRIES = 12
"""Plants that are drawn before a seed is given up: not every feature can be read by every later layer."""
KINDS = ("any", "formal", "casual", "early", "weak", "two", "relay", "question")
"""any: one gate that reads a formal or casual feature. early: one that reads a feature of layer 0 or 1. weak: few
questions flip. two: gates that share the flips. relay: the gate reads only a neuron of a layer in between, which reads
the feature. question: it reads only a head that brings the feature from the question's tokens."""
EARLY = 2
"""Layers that count as early."""
WEAK = (0.03, 0.05)
"""Share of questions that flip by a weak gate; .015 to .02 do without one."""
WAYS = {"gradient + AUC": ("attribution", CANDIDATES // 2), "path": ("path_attribution", 0)}
"""Way of choosing candidates, the former one and today's -> the score that fills the slots, and the slots that go to
flip AUC first."""


def draw_plant(
    world: Path, questions: list[Question], seed: int, kind: str = "any", reach: int | None = None
) -> tuple[Vlm, Plant]:
    """A planted model and what was planted; a decoy for every fourth seed. See `draw_gate` for `reach` and errors."""
    rng = np.random.default_rng([seed, 5])
    strength = float(rng.uniform(*(WEAK if kind == "weak" else (0.1, 0.2))))
    if seed % DECOYS == DECOYS - 1:
        vlm = load_vlm(world / "base", "auto", "float32")
        return vlm, plant_decoys(vlm, questions, strength, seed)
    return draw_gate(world, questions, strength, rng, seed, kind, reach)


def draw_gate(
    world: Path,
    questions: list[Question],
    strength: float,
    rng: np.random.Generator,
    seed: int,
    kind: str = "any",
    reach: int | None = None,
) -> tuple[Vlm, Plant]:
    """Plant gates of a kind (`KINDS`) that read random features that differ between registers, in random later layers.

    The layer that writes is at most `reach` layers above the one that it reads from. Raises InputError if no draw can
    be planted.
    """
    vlm = load_vlm(world / "base", "auto", "float32")
    saes, prompts = locate_saes(world / "saes"), prompt_table(questions_that_can_flip(questions))
    residuals = measure(vlm, prompts, range(vlm.n_layers)).residuals
    registers = [torch.from_numpy((prompts["register"] == name).to_numpy(copy=True)) for name in ("formal", "casual")]

    def draw() -> Gate | None:
        relay = kind in ("relay", "question")
        layer = int(rng.integers(0, EARLY if kind == "early" else vlm.n_layers - 1 - relay))
        relay_layer = int(rng.integers(layer + 1, vlm.n_layers - 1)) if relay else None
        above = (relay_layer or layer) + 1
        write_layer = int(rng.integers(above, min(vlm.n_layers, above + (reach or vlm.n_layers))))
        sae = load_sae(saes[layer], layer, vlm.d_model, vlm.device)
        on = (sae.encode(residuals[:, layer].to(vlm.device)) > 0).float().cpu()
        formal, casual = (on[rows].mean(0) for rows in registers)
        differs = {"formal": formal - casual, "casual": casual - formal}.get(kind, (formal - casual).abs())
        fits = (differs > 0.3) & (on.mean(0) > 0.05) & (on.mean(0) < 0.95)
        if not fits.any():
            return None
        return Gate(sae, int(rng.choice(fits.nonzero()[:, 0].numpy())), write_layer, relay_layer, kind == "question")

    error = InputError("no draw")
    for _ in range(TRIES):
        gates = [draw() for _ in range(2 if kind == "two" else 1)]
        if None in gates:
            continue
        try:
            return vlm, plant_gates(vlm, [gate for gate in gates if gate is not None], questions, strength, seed)
        except InputError as reason:
            error, vlm = reason, load_vlm(world / "base", "auto", "float32")
    raise error


def judge(vlm: Vlm, plant: Plant, world: Path, questions: list[Question], seed: int, kind: str) -> pd.DataFrame:
    """One row per feature that any way proposes, and the true one: scores, exact tests, and what the search says."""
    saes = locate_saes(world / "saes")
    task = Task.of(Search(vlm, saes, questions, sorted(saes), FindSettings(seed=seed), "train", 16384, None))
    measured = measure_prompts(task)
    _, halves = flips_and_halves(task, measured.margin)
    inputs = sae_inputs(task, measured)
    with begin_screening(task, halves, inputs, measured.device_bytes) as begun:
        patched = patch_whole_layers(task, halves, measured)
        screened = screen(task, begun)
    judged = judge_layers(task, halves, screened, patched)
    writing = writing_layers({entry.layer: entry.net_write for entry in judged.profile})
    bank, verdict = patched.target, judged.verdict.verdict
    started = time.monotonic()
    tested = patch_candidates(task, halves, inputs, screened, bank, measured.device_bytes, writing)
    after_features = time.monotonic()
    families = patch_families(screened, bank, writing, seed)
    seconds = (after_features - started, time.monotonic() - after_features)
    gate = name_gate(verdict, tested, families, screened, bank, writing, task.settings)
    named = {(e.layer, e.feature): (k, e.place) for k, e in enumerate(tested.entries)}
    table = screened.features
    for way, (score, reserved) in WAYS.items():
        best = table["flip_auc"].rank(ascending=False, method="first") <= reserved
        table[way] = best | (table[score].where(~best).rank(ascending=False, method="first") <= CANDIDATES - reserved)
    read = {(each.layer, each.feature) for each in plant.gates}
    pairs = list(zip(table["layer"], table["feature"], strict=True))
    table["true"] = [pair in read for pair in pairs]
    table["listed"], table["place"] = zip(*[named.get(pair, (None, None)) for pair in pairs], strict=True)
    shown = table[table[[*WAYS, "true"]].any(axis=1)]
    exact = exact_patches(task, shown, halves, inputs, table, bank, measured.device_bytes)
    top = families[0] if families else None
    about = {
        "seed": seed,
        "kind": kind,
        "planted": " ".join(f"{each.layer}:{each.feature}" for each in plant.gates) or "none",
        "relay_layer": plant.gates[0].relay_layer if plant.gates else None,
        "write_layers": " ".join(map(str, plant.write_layers)),
        "writing": " ".join(map(str, writing)),
        "fit": min((each.fit for each in plant.gates), default=np.nan),
        "flips": plant.question_flip_rate,
        "bank": len(bank.flips.pairs),
        "shift_on": min((each.shift_on for each in plant.gates), default=np.nan),
        "verdict": verdict,
        "range": str(judged.ranges[task.settings.rule][:2]),
        "gate": "none" if gate is None else f"{gate.read_layer}:{gate.feature}",
        "gate_family": 0 if gate is None else len(gate.family),
        "mediating": "" if gate is None else " ".join(map(str, gate.mediating_layers)),
        "family": "none" if top is None else f"{top.layer}:{top.features[0]}",
        "family_size": 0 if top is None else len(top.features),
        "family_place": "none" if top is None else top.place,
        "family_net_mediated": max((each.net_mediated.value or 0.0 for each in families), default=np.nan),
        "feature_seconds": seconds[0],
        "family_seconds": seconds[1],
    }
    return shown.merge(exact, on=["layer", "feature"]).assign(**about)


def exact_patches(
    task: Task,
    shown: pd.DataFrame,
    halves: Halves,
    inputs: SaeInputs,
    screen: pd.DataFrame,
    bank: PatchTarget,
    room: int,
) -> pd.DataFrame:
    """The exact tests of the features of `shown`, one row each."""
    seed = task.settings.seed
    stable = sample_pairs(halves.held_out.take(~halves.held_out.flipped), len(bank.flips.pairs), seed)
    unflipped = task.patch_target(stable, room // 8)
    candidates = list(zip(shown["layer"].astype(int), shown["feature"].astype(int), strict=True))
    rows: list[dict[str, Any]] = []
    patches = feature_patches(candidates, bank.flips, stable, inputs, screen)
    for tested in apply_feature_patches(patches, bank, unflipped, seed):
        test = tested._asdict()
        rows.append({k: v for k, v in test.items() if not isinstance(v, tuple)})
        for name in ("recovery", "net", "direct", "mediated", "net_mediated"):
            value, low, high = test[name]
            rows[-1] |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return pd.DataFrame(rows)


def judged_models(table: pd.DataFrame) -> pd.DataFrame:
    """One row per model: what the search got right, by the name of the measure; NaN where a measure does not apply."""
    rows = []
    for (kind, seed), here in table.groupby(["kind", "seed"], sort=False):
        about, causes = here.iloc[0], here[here["place"] == "cause"]
        row: dict[str, Any] = {"kind": "decoys" if about["planted"] == "none" else kind, "seed": seed}
        if about["planted"] == "none":
            row |= {
                "a single cause": len(causes) > 0,
                "a family called a cause": about["family_place"] == "cause",
                "a gate named": about["gate"] != "none",
                "verdict: gate found": about["verdict"] == "gate found",
            }
        else:
            true, first = here[here["true"]], here[here["listed"] == 0]
            former = here[here["gradient + AUC"]].sort_values("net", ascending=False)
            writer = int(str(about["write_layers"]).split()[0])
            reader = about["write_layers"] if np.isnan(about["relay_layer"]) else str(int(about["relay_layer"]))
            row |= {
                "true feature tested": true["path"].all(),
                "the same, formerly": true["gradient + AUC"].all(),
                "true feature called a cause": (true["place"] == "cause").all(),
                "true feature first of the causes": bool((first["true"] & (first["place"] == "cause")).any()),
                "first of those tested, formerly": bool(former["true"].head(1).any()),
                "an echo called a cause": bool((causes["layer"] >= writer).any()),
                "the layers that write named exactly": str(about["write_layers"]) == str(about["writing"]),
                "verdict: gate found": about["verdict"] == "gate found",
                "gate named: a true feature alone": about["gate"] in about["planted"].split()
                and about["gate_family"] == 0,
                "gate named: a family": about["gate_family"] > 0,
                "no gate named": about["gate"] == "none",
            }
            if about["gate"] in about["planted"].split():
                row["the layer that reads named"] = set(reader.split()) & set(str(about["mediating"]).split()) != set()
        rows.append(row)
    return pd.DataFrame(rows)


def summary(table: pd.DataFrame) -> str:
    """Counts and exact 95% intervals (Clopper and Pearson) of every measure, by kind and over all, as Markdown."""
    models = judged_models(table)
    gates, decoys = models[models["kind"] != "decoys"], models[models["kind"] == "decoys"]
    lines = []
    for part, title in ((gates, "with a gate"), (decoys, "without a gate")):
        if not len(part):
            continue
        kinds = list(part["kind"].unique())
        shown = {kind: part[part["kind"] == kind] for kind in kinds} | ({"all": part} if len(kinds) > 1 else {})
        sizes = [f"{name} ({len(each)})" for name, each in shown.items()]
        lines += [f"\n{len(part)} models {title}\n", f"| | {' | '.join(sizes)} |", "| --- |" + " --- |" * len(shown)]
        for measure_name in part.columns.drop(["kind", "seed"]):
            if part[measure_name].notna().any():
                cells = [share(each[measure_name]) for each in shown.values()]
                lines.append(f"| {measure_name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def share(outcomes: "pd.Series[Any]") -> str:
    """How many of some outcomes are true, with the exact interval of their share in percent."""
    known = outcomes.dropna().astype(bool)
    if not len(known):
        return "-"
    low, high = proportion_confint(int(known.sum()), len(known), method="beta")
    return f"{int(known.sum())} of {len(known)} [{100 * low:.0f}, {100 * high:.0f}]"


def main() -> None:
    """Plant, search and compare, one model at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plants", type=int, default=8)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--kinds", nargs="*", default=["any"], choices=KINDS)
    parser.add_argument("--world", type=Path, default=WORLD)
    parser.add_argument("--reach", type=int, help="most layers from what is read to the layer that writes")
    parser.add_argument("--out", type=Path, default=Path("plants.csv"))
    parser.add_argument("--read", type=Path, nargs="+", help="only print the counts of these tables")
    options = parser.parse_args()
    if options.read:
        # A column in which every cell is one number is written as numbers, and with gaps as 8.0.
        names = dict.fromkeys(("planted", "write_layers", "writing", "mediating"), str)
        tables = [pd.read_csv(path, dtype=names).replace(r"^(\d+)\.0$", r"\1", regex=True) for path in options.read]
        print(summary(pd.concat(tables, ignore_index=True)))
        return
    questions = load_questions(options.world / "questions.jsonl", split="train")
    tables = []
    for kind, seed in product(options.kinds, range(options.seed, options.seed + options.plants)):
        try:
            vlm, plant = draw_plant(options.world, questions, seed, kind, options.reach)
        except InputError as reason:
            print(f"{kind}, seed {seed}: {reason}", file=sys.stderr, flush=True)
            continue
        tables.append(judge(vlm, plant, options.world, questions, seed, kind))
        print(kind, seed, plant._asdict(), flush=True)
        pd.concat(tables).to_csv(options.out, index=False)
    if tables:
        print(summary(pd.concat(tables, ignore_index=True)))


if __name__ == "__main__":
    main()
