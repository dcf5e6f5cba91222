"""Does `find-features` name the feature and the place of gates that are planted at random, and none where none is?

    python tests/benchmarks/plants.py --plants 24 --seed 100 --out plants.csv

A plant draws a layer, one of its features that differ between registers, a later layer that writes, and a strength;
every fourth model is a decoy without a gate. The search knows none of this. The table has a row for every feature that
any way of choosing candidates proposes, with its exact patch: which way tests the true feature, where it ranks by each
score, and what the search calls it. A plant takes about 4 minutes on two CPU cores and one on a GPU.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from interp.causal.feature_patching import apply_feature_patch, feature_patches
from interp.demo.plant import Plant, plant_decoys, plant_feature
from interp.measurement.margins import measure
from interp.model.load import load_vlm
from interp.model.vlm import Vlm
from interp.paths import WORLD
from interp.questions.files import load_questions
from interp.questions.schema import Question
from interp.questions.tables import prompt_table
from interp.runtime.errors import InputError
from interp.saes.locate import locate_saes
from interp.saes.sae import load_sae
from interp.screening.flips import questions_that_can_flip, sample_pairs
from interp.search.settings import FindSettings
from interp.search.stages import (
    CANDIDATES,
    flips_and_halves,
    judge_layers,
    measure_prompts,
    patch_whole_layers,
    sae_inputs,
    screen,
)
from interp.search.task import Search, Task

DECOYS = 4
"""Every so many models have no gate."""
TRIES = 12
"""Plants that are drawn before a seed is given up: not every feature can be read by every later layer."""
WAYS = {
    "gradient + AUC": ("attribution", CANDIDATES // 2),
    "gradient": ("attribution", 0),
    "path + AUC": ("path_attribution", CANDIDATES // 2),
    "path": ("path_attribution", 0),
}
"""Way of choosing candidates -> the score that fills the slots, and the slots that go to flip AUC first."""


def draw_plant(world: Path, questions: list[Question], seed: int) -> tuple[Vlm, Plant]:
    """A planted model and what was planted. Raises InputError if no draw can be planted."""
    rng = np.random.default_rng([seed, 5])
    vlm = load_vlm(world / "base", "auto", "float32")
    strength = float(rng.uniform(0.1, 0.2))
    if seed % DECOYS == DECOYS - 1:
        return vlm, plant_decoys(vlm, questions, strength, seed)
    saes, prompts = locate_saes(world / "saes"), prompt_table(questions_that_can_flip(questions))
    residuals = measure(vlm, prompts, range(vlm.n_layers)).residuals
    error = InputError("no draw")
    for _ in range(TRIES):
        layer = int(rng.integers(0, vlm.n_layers - 1))
        write_layer = int(rng.integers(layer + 1, vlm.n_layers))
        sae = load_sae(saes[layer], layer, vlm.d_model, vlm.device)
        on = (sae.encode(residuals[:, layer].to(vlm.device)) > 0).float().cpu()
        formal, casual = (
            on[torch.from_numpy((prompts["register"] == name).to_numpy(copy=True))].mean(0)
            for name in ("formal", "casual")
        )
        fits = ((formal - casual).abs() > 0.3) & (on.mean(0) > 0.05) & (on.mean(0) < 0.95)
        if not fits.any():
            continue
        feature = int(rng.choice(fits.nonzero()[:, 0].numpy()))
        try:
            return vlm, plant_feature(vlm, sae, feature, write_layer, questions, strength, seed)
        except InputError as reason:
            error, vlm = reason, load_vlm(world / "base", "auto", "float32")
    raise error


def judge(vlm: Vlm, plant: Plant, world: Path, questions: list[Question], seed: int) -> pd.DataFrame:
    """One row per feature that any way proposes, and the true one: scores, ranks, exact tests."""
    saes = locate_saes(world / "saes")
    task = Task.of(Search(vlm, saes, questions, sorted(saes), FindSettings(seed=seed), "train", 16384, None))
    measured = measure_prompts(task)
    _, halves = flips_and_halves(task, measured.margin)
    inputs = sae_inputs(task, measured)
    screened = screen(task, halves, inputs, measured.device_bytes)
    patched = patch_whole_layers(task, halves, screened, measured.device_bytes)
    judged = judge_layers(task, halves, screened, patched)
    table = screened.features
    for score in ("flip_auc", "attribution", "path_attribution"):
        table[f"rank {score}"] = table[score].rank(ascending=False, method="first")
        table[f"layer rank {score}"] = table.groupby("layer")[score].rank(ascending=False, method="first")
    for way, (score, reserved) in WAYS.items():
        best = table["rank flip_auc"] <= reserved
        table[way] = best | (table[f"rank {score}"].where(~best).rank(method="first") <= CANDIDATES - reserved)
    table["true"] = (table["layer"] == plant.layer) & (table["feature"] == plant.feature)
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
        "planted": "none" if plant.layer is None else f"{plant.layer}:{plant.feature}",
        "write_layer": plant.write_layers[0] if plant.layer is not None else -1,
        "fit": plant.fit,
        "flips": plant.question_flip_rate,
        "shift_on": plant.shift_on,
        "verdict": judged.verdict,
        "range": str(judged.ranges["write"][:2]),
        "net_write": ";".join(f"{w.value:.3f}/{w.low:.3f}" for w in writes.values()),
    }
    return shown.merge(pd.DataFrame(rows), on=["layer", "feature"]).assign(**about)


def summary(table: pd.DataFrame) -> str:
    """How often each way tests the true feature, and how often each score of the test puts it on top."""
    lines = []
    gated = table[table["planted"] != "none"]
    plants = gated.groupby("seed")
    for way in WAYS:
        lines.append(f"{way}: true feature tested in {int(gated[gated['true']][way].sum())} of {plants.ngroups}")
        for score in ("net", "net_mediated"):
            tested = gated[gated[way]]
            top = tested.loc[tested.groupby("seed")[score].idxmax()]
            lines.append(f"  on top by {score}: {int(top['true'].sum())} of {plants.ngroups}")
    return "\n".join(lines)


def main() -> None:
    """Plant, search and compare, one model at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plants", type=int, default=8)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--world", type=Path, default=WORLD)
    parser.add_argument("--out", type=Path, default=Path("plants.csv"))
    options = parser.parse_args()
    questions = load_questions(options.world / "questions.jsonl", split="train")
    tables = []
    for seed in range(options.seed, options.seed + options.plants):
        try:
            vlm, plant = draw_plant(options.world, questions, seed)
        except InputError as reason:
            print(f"seed {seed}: {reason}", file=sys.stderr, flush=True)
            continue
        tables.append(judge(vlm, plant, options.world, questions, seed))
        print(seed, plant._asdict(), flush=True)
        pd.concat(tables).to_csv(options.out, index=False)
    if tables:
        print(summary(pd.concat(tables, ignore_index=True)))


if __name__ == "__main__":
    main()
