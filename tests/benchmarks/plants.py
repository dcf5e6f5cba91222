"""Does `find-features` name the feature and the place of gates that are planted at random, and none where none is?

    python tests/benchmarks/plants.py --plants 24 --seed 100 --out plants.csv
    python tests/benchmarks/plants.py --plants 4 --seed 300 --kinds casual weak two relay --out kinds.csv

A plant draws a layer, one of its features that differ between registers, a later layer that writes, and a strength;
every fourth model is a decoy without a gate. The search knows none of this. The table has a row for every feature that
any way of choosing candidates proposes, with its exact patch: which way tests the true feature, where it ranks by each
score, and what the search calls it. A plant takes about 4 minutes on two CPU cores and one on a GPU.
"""

import argparse
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from interp.causal.feature_patching import apply_feature_patch, feature_patches
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
from interp.screening.flips import questions_that_can_flip, sample_pairs
from interp.search.layer_stage import judge_layers, patch_whole_layers
from interp.search.settings import FindSettings
from interp.search.stages import (
    CANDIDATES,
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
KINDS = ("any", "formal", "casual", "weak", "two", "relay")
"""any: one gate that reads a formal or casual feature. weak: few questions flip. two: gates that share the flips.
relay: the gate reads only a neuron of a layer in between, which reads the feature."""
WEAK = (0.03, 0.05)
"""Share of questions that flip by a weak gate; .015 to .02 do without one."""
WAYS = {
    "gradient + AUC": ("attribution", CANDIDATES // 2),
    "gradient": ("attribution", 0),
    "path + AUC": ("path_attribution", CANDIDATES // 2),
    "path": ("path_attribution", 0),
}
"""Way of choosing candidates -> the score that fills the slots, and the slots that go to flip AUC first."""


def draw_plant(world: Path, questions: list[Question], seed: int, kind: str = "any") -> tuple[Vlm, Plant]:
    """A planted model and what was planted; a decoy for every fourth seed. See `draw_gate` for what is raised."""
    rng = np.random.default_rng([seed, 5])
    strength = float(rng.uniform(*(WEAK if kind == "weak" else (0.1, 0.2))))
    if seed % DECOYS == DECOYS - 1:
        vlm = load_vlm(world / "base", "auto", "float32")
        return vlm, plant_decoys(vlm, questions, strength, seed)
    return draw_gate(world, questions, strength, rng, seed, kind)


def draw_gate(
    world: Path, questions: list[Question], strength: float, rng: np.random.Generator, seed: int, kind: str = "any"
) -> tuple[Vlm, Plant]:
    """Plant gates of a kind (`KINDS`) that read random features that differ between registers, in random later layers.

    Raises InputError if no draw can be planted.
    """
    vlm = load_vlm(world / "base", "auto", "float32")
    saes, prompts = locate_saes(world / "saes"), prompt_table(questions_that_can_flip(questions))
    residuals = measure(vlm, prompts, range(vlm.n_layers)).residuals
    registers = [torch.from_numpy((prompts["register"] == name).to_numpy(copy=True)) for name in ("formal", "casual")]

    def draw() -> Gate | None:
        relay = kind == "relay"
        layer = int(rng.integers(0, vlm.n_layers - 1 - relay))
        relay_layer = int(rng.integers(layer + 1, vlm.n_layers - 1)) if relay else None
        write_layer = int(rng.integers((relay_layer or layer) + 1, vlm.n_layers))
        sae = load_sae(saes[layer], layer, vlm.d_model, vlm.device)
        on = (sae.encode(residuals[:, layer].to(vlm.device)) > 0).float().cpu()
        formal, casual = (on[rows].mean(0) for rows in registers)
        differs = {"formal": formal - casual, "casual": casual - formal}.get(kind, (formal - casual).abs())
        fits = (differs > 0.3) & (on.mean(0) > 0.05) & (on.mean(0) < 0.95)
        if not fits.any():
            return None
        return Gate(sae, int(rng.choice(fits.nonzero()[:, 0].numpy())), write_layer, relay_layer)

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
    """One row per feature that any way proposes, and the true one: scores, ranks, exact tests."""
    saes = locate_saes(world / "saes")
    task = Task.of(Search(vlm, saes, questions, sorted(saes), FindSettings(seed=seed), "train", 16384, None))
    measured = measure_prompts(task)
    _, halves = flips_and_halves(task, measured.margin)
    inputs = sae_inputs(task, measured)
    screened = screen(task, halves, inputs, measured.device_bytes)
    patched = patch_whole_layers(task, halves, measured, screened)
    judged = judge_layers(task, halves, screened, patched)
    writing = writing_layers(judged.profile)
    tested = patch_candidates(task, halves, inputs, screened, patched.target, measured.device_bytes, writing)
    named = {(e.layer, e.feature): (k, e.place) for k, e in enumerate(tested.entries)}
    table = screened.features
    for score in ("flip_auc", "attribution", "path_attribution"):
        table[f"rank {score}"] = table[score].rank(ascending=False, method="first")
        table[f"layer rank {score}"] = table.groupby("layer")[score].rank(ascending=False, method="first")
    for way, (score, reserved) in WAYS.items():
        best = table["rank flip_auc"] <= reserved
        table[way] = best | (table[f"rank {score}"].where(~best).rank(method="first") <= CANDIDATES - reserved)
    read = {(gate.layer, gate.feature) for gate in plant.gates}
    pairs = list(zip(table["layer"], table["feature"], strict=True))
    table["true"] = [pair in read for pair in pairs]
    table["listed"], table["place"] = zip(*[named.get(pair, (None, None)) for pair in pairs], strict=True)
    shown = table[table[[*WAYS, "true"]].any(axis=1) | (table["layer rank path_attribution"] <= 4)]
    stable = sample_pairs(halves.held_out.take(~halves.held_out.flipped), len(patched.target.flips.pairs), seed)
    unflipped = task.patch_target(stable, measured.device_bytes // 8)
    candidates = list(zip(shown["layer"].astype(int), shown["feature"].astype(int), strict=True))
    patches = feature_patches(candidates, patched.target.flips, stable, inputs, table)
    rows: list[dict[str, Any]] = []
    for patch in patches:
        test = apply_feature_patch(patch, patched.target, unflipped, seed)._asdict()
        rows.append({k: v for k, v in test.items() if not isinstance(v, tuple)})
        for name in ("recovery", "net", "direct", "mediated", "net_mediated"):
            value, low, high = test[name]
            rows[-1] |= {name: value, f"{name}_low": low, f"{name}_high": high}
    writes = {p.layer: p.net_write for p in judged.profile}
    about = {
        "seed": seed,
        "kind": kind,
        "planted": " ".join(f"{gate.layer}:{gate.feature}" for gate in plant.gates) or "none",
        "relay_layer": plant.gates[0].relay_layer if plant.gates else None,
        "write_layers": " ".join(map(str, plant.write_layers)),
        "writing": " ".join(map(str, writing)),
        "fit": min((gate.fit for gate in plant.gates), default=np.nan),
        "flips": plant.question_flip_rate,
        "shift_on": min((gate.shift_on for gate in plant.gates), default=np.nan),
        "verdict": judged.verdict.verdict,
        "range": str(judged.ranges[task.settings.rule][:2]),
        "net_write": ";".join(f"{w.value:.3f}/{w.low:.3f}" for w in writes.values()),
    }
    return shown.merge(pd.DataFrame(rows), on=["layer", "feature"]).assign(**about)


def summary(table: pd.DataFrame) -> str:
    """How often each way tests the true features, and what the search calls them and others, kind by kind."""
    lines = []
    for kind, here in table[table["planted"] != "none"].groupby("kind"):
        plants = here.groupby("seed")
        lines.append(f"{kind}, {plants.ngroups} plants")
        for way in WAYS:
            tested = here[here["true"]].groupby("seed")[way].all()
            lines.append(f"  {way}: every true feature tested in {int(tested.sum())}")
        causes = here[here["place"] == "cause"]
        first = here[here["listed"] == 0]
        writer = here["write_layers"].str.split().str[0].astype(int)
        late = causes["layer"] >= writer[causes.index]
        all_named = (here[here["true"]]["place"] == "cause").groupby(here["seed"]).all()
        exact = plants["write_layers"].first() == plants["writing"].first()
        lines += [
            f"  every true feature called a cause in {int(all_named.sum())}",
            f"  a true feature first of the causes in {int((first['true'] & (first['place'] == 'cause')).sum())}",
            f"  causes: {len(causes)}, of which at or after the first layer that writes: {int(late.sum())}",
            f"  the layers that write named exactly in {int(exact.sum())}",
        ]
    decoys = table[table["planted"] == "none"]
    if len(decoys):
        named = decoys[decoys["place"] == "cause"]["seed"].nunique()
        lines.append(f"decoys: a cause is named in {named} of {decoys['seed'].nunique()}")
    return "\n".join(lines)


def main() -> None:
    """Plant, search and compare, one model at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plants", type=int, default=8)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--kinds", nargs="*", default=["any"], choices=KINDS)
    parser.add_argument("--world", type=Path, default=WORLD)
    parser.add_argument("--out", type=Path, default=Path("plants.csv"))
    options = parser.parse_args()
    questions = load_questions(options.world / "questions.jsonl", split="train")
    tables = []
    for kind, seed in product(options.kinds, range(options.seed, options.seed + options.plants)):
        try:
            vlm, plant = draw_plant(options.world, questions, seed, kind)
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
