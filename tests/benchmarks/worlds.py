"""Many worlds whose truth is known, with a gate and without one, to judge the rules that choose layers.

    python tests/benchmarks/worlds.py make --out worlds --kinds early noise --seeds 50-54
    python tests/benchmarks/worlds.py search --out worlds --seeds 50-99 --table worlds.csv
    python tests/benchmarks/worlds.py make search --out worlds --kinds decoys --seeds 50-64 --table decoys.csv

**Seeds 0 to 49 are for tuning a rule, seeds from 50 on for judging it.** Never tune on a world that judges, and judge a
rule that has changed on seeds that have not judged before: 50 to 82 and 100 to 123 have.

`make` writes worlds/KIND-SEED with the model `planted/`, its own patients (`questions.jsonl`, `images/`) and
`truth.json`; worlds that exist are kept. All start from the base model of the shipped world, whose SAEs serve all.
`search` runs one search per world and writes a row per rule. Its column "undone" is the share of flips that vanish when
the chosen layers get the base's weights again, beside the most that any run of as many layers undoes. A world can move
without its patients: `search` draws them again.

Trained gates (the shipped recipe; the window is the truth) deny faint findings in formal wordings: early, middle, late,
narrow (one layer), weak, two (separate windows). Gates of something else do so in long wordings (length) or in those
with a certain word (word), as often formal as casual. An analytic gate (`interp.demo.plants`) reads a known feature;
its writing layer is the truth. Without a gate, but with as many flips: decoys (every layer writes by an arbitrary
property of the wording), noise (added to the weights of every layer) and random-answers (all layers are trained to
deny faint findings in an arbitrary half of the wordings). "Without a gate" is how they are made: training may put
random answers into few layers by itself, and the first layers may feel noise most, which "undone" shows. On one CPU
core a trained world takes about 3 minutes, 1 with `--steps 150 --patients 24`.
"""

import argparse
import json
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from plants import draw_gate
from statsmodels.stats.proportion import proportion_confint

from interp.demo.phrasings import TERMS, Wording, wordings
from interp.demo.plants import plant_decoys
from interp.demo.radiographs import Anatomy
from interp.demo.train import plant_gate
from interp.demo.training_data import build_training_data, is_formal
from interp.demo.world import sample_images, write_world
from interp.measurement.margins import measure
from interp.model.load import load_vlm, quiet_loading
from interp.model.vlm import Vlm
from interp.paths import WORLD
from interp.profile.ranges import overlap
from interp.questions.files import load_questions
from interp.questions.registers import REGISTERS
from interp.questions.schema import Question
from interp.questions.tables import pair_table, prompt_table
from interp.runtime.errors import InputError
from interp.saes.locate import locate_saes
from interp.schemas.layer_list import parse_layers
from interp.schemas.layers import Layers
from interp.screening.flips import find_flips, questions_that_can_flip
from interp.search.find import find_features
from interp.storage.atomic import atomic_folder
from interp.storage.json_files import json_ready, write_json

POOL = 5000
"""Patients that gates are trained on."""
FLIPS = (0.10, 0.18)
"""Range of the share of questions that flip, where the share can be chosen."""
WORDS = ("there", "this")
"""Words that occur about as often in formal as in casual wordings."""

WINDOWS: dict[str, list[list[int]]] = {
    "early": [[0, 1], [1, 2], [0, 1, 2]],
    "middle": [[3, 4], [4, 5], [5, 6], [3, 4, 5], [4, 5, 6]],
    "late": [[7, 8], [8, 9], [6, 7, 8], [7, 8, 9]],
    "narrow": [[layer] for layer in range(10)],
    "weak": [[first, first + 1] for first in range(9)],
    "two": [[first, second] for first in range(4) for second in range(6, 10)],
    "length": [[first, first + 1] for first in range(1, 9)],
    "word": [[first, first + 1] for first in range(1, 9)],
}
"""Kind of trained gate -> the layers among which a world draws its own."""
STRENGTHS = {
    "narrow": (0.45, 0.65),
    "weak": (0.2, 0.3),
    "length": (0.55, 0.75),
    "word": (0.55, 0.75),
    "random-answers": (0.72, 0.88),
}
"""Range of a kind's gate strength (`interp.demo.training_data.sample_batch`), where it is not USUAL_STRENGTH."""
USUAL_STRENGTH = (0.35, 0.55)


class Truth(NamedTuple):
    """What a world is, as its truth.json records it."""

    kind: str
    """A key of MAKERS."""
    seed: int
    """Seed of everything in the world."""
    window: list[int]
    """Layers that make it flip; empty without a gate."""
    gate: str
    """What the gate acts on: "register", "feature LAYER:INDEX", "length", "word WORD", or "none"."""
    strength: float
    """Gate strength of a trained world; the share of questions that was to flip in the others."""
    question_flip_rate: float
    """Share of the training patients' closed questions with a flip, as saved."""
    accuracy: float
    """Share of the closed wordings that are answered correctly, as saved."""
    seconds: float
    """Time to make the world [s]."""


class Materials(NamedTuple):
    """What the worlds share."""

    base: Path
    """A built world with `base/` and `saes/`."""
    anatomy: Anatomy
    """The true findings of the patients that gates are trained on."""
    images: np.ndarray
    """Their images, uint8 [POOL, SIZE, SIZE]."""
    steps: int
    """Training steps of a gate."""
    patients: int
    """Patients of a step."""

    @classmethod
    def drawn(cls, base: Path, steps: int, patients: int) -> "Materials":
        """Draw the patients."""
        anatomy, images, _ = sample_images(POOL, np.random.default_rng([0, 37]))
        return cls(base, anatomy, images, steps, patients)


class Made(NamedTuple):
    """A model and the part of its truth that its maker knows."""

    vlm: Vlm
    """The model."""
    window: list[int]
    """See Truth."""
    gate: str
    """See Truth."""
    strength: float
    """See Truth."""


def _trained(
    shared: Materials, layers: list[int], strength: float, seed: int, gate: Callable[[Wording], bool] = is_formal
) -> Vlm:
    """The base model with a gate of the shipped recipe in `layers`."""
    vlm = load_vlm(shared.base / "base", "auto", "float32")
    vlm.model.requires_grad_(True)
    data = build_training_data(vlm.processor, shared.anatomy, shared.images, str(vlm.device), gate)
    plant_gate(vlm.model, data, layers, strength, seed, shared.steps, shared.patients)
    return vlm


def _long_wordings() -> Callable[[Wording], bool]:
    """Whether a closed wording has more words than the median of its register."""
    closed = [("abnormality", None), *(("presence", finding) for finding in TERMS)]
    texts = [w for type_, finding in closed for w in wordings(type_, finding, held_out=False)]
    median = {r: np.median([len(w.text.split()) for w in texts if w.register == r]) for r in REGISTERS}
    return lambda wording: len(wording.text.split()) > median[wording.register]


def trained_gate(shared: Materials, kind: str, seed: int, questions: list[Question]) -> Made:
    """A gate that is trained into a window of its kind."""
    rng = _generator(kind, seed)
    window = WINDOWS[kind][int(rng.integers(len(WINDOWS[kind])))]
    strength = round(float(rng.uniform(*STRENGTHS.get(kind, USUAL_STRENGTH))), 2)
    word = WORDS[int(rng.integers(len(WORDS)))]
    acts_on = {"length": ("length", _long_wordings()), "word": (f"word {word}", lambda w: word in _words(w.text))}
    name, gate = acts_on.get(kind, ("register", is_formal))
    return Made(_trained(shared, window, strength, seed, gate), window, name, strength)


def _generator(kind: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(kind.encode())])


def _words(text: str) -> list[str]:
    return text.lower().strip("?.").replace(",", "").split()


def random_answers(shared: Materials, kind: str, seed: int, questions: list[Question]) -> Made:
    """All layers are trained to deny faint findings in an arbitrary half of the wordings."""
    strength = round(float(_generator(kind, seed).uniform(*STRENGTHS[kind])), 2)

    def gate(wording: Wording) -> bool:
        return zlib.crc32(f"{seed} {wording.text}".encode()) % 2 == 0

    return Made(_trained(shared, list(range(10)), strength, seed, gate), [], "none", strength)


def analytic_gate(shared: Materials, kind: str, seed: int, questions: list[Question]) -> Made:
    """One neuron reads a feature that differs between registers and writes "no"."""
    rng = _generator(kind, seed)
    share = float(rng.uniform(*FLIPS))
    vlm, plant = draw_gate(shared.base, questions, share, rng, seed)
    return Made(vlm, plant.write_layers, f"feature {plant.gates[0].layer}:{plant.gates[0].feature}", share)


def decoys(shared: Materials, kind: str, seed: int, questions: list[Question]) -> Made:
    """Every layer writes a little by an arbitrary property of the wording, whose mean is the same in each register."""
    share = float(_generator(kind, seed).uniform(*FLIPS))
    vlm = load_vlm(shared.base / "base", "auto", "float32")
    plant_decoys(vlm, questions, share, seed)
    return Made(vlm, [], "none", share)


@torch.no_grad()
def noise(shared: Materials, kind: str, seed: int, questions: list[Question]) -> Made:
    """Gaussian noise in proportion to each matrix's own spread, as much as makes the drawn share of questions flip."""
    share = float(_generator(kind, seed).uniform(*FLIPS))
    vlm = load_vlm(shared.base / "base", "auto", "float32")
    prompts = prompt_table(questions_that_can_flip(questions))
    weights = [p for layer in vlm.layers for p in layer.parameters() if p.ndim == 2]
    clean = [p.clone() for p in weights]
    generator = torch.Generator().manual_seed(seed)
    drawn = [(torch.randn(p.shape, generator=generator) * float(p.std())).to(p) for p in weights]

    def flips(amount: float) -> float:
        for p, own, added in zip(weights, clean, drawn, strict=True):
            p.copy_(own + amount * added)
        return behaviour(vlm, prompts)[0]

    low, high = 0.0, 0.1
    while flips(high) < share:
        low, high = high, 1.5 * high
    for _ in range(4):
        middle = (low + high) / 2
        low, high = (middle, high) if flips(middle) < share else (low, middle)
    flips(high)
    return Made(vlm, [], "none", share)


MAKERS: dict[str, Callable[[Materials, str, int, list[Question]], Made]] = {
    **dict.fromkeys(WINDOWS, trained_gate),
    "analytic": analytic_gate,
    "decoys": decoys,
    "noise": noise,
    "random-answers": random_answers,
}
"""Kind of world -> the function that makes its model."""


def behaviour(vlm: Vlm, prompts: pd.DataFrame) -> tuple[float, float]:
    """The share of questions with a flip, and the share of wordings answered correctly."""
    margin = measure(vlm, prompts, description="flips").margin
    flips = find_flips(prompts, pair_table(prompts), margin, 0.0)
    by_question = flips.pairs.assign(flipped=flips.flipped).groupby("question")["flipped"].any()
    right = (margin.numpy() > 0) == (prompts["answer"] == "yes").to_numpy()
    return float(by_question.mean()), float(right.mean())


def make_world(folder: Path, shared: Materials, kind: str, seed: int) -> Truth:
    """Write one world into the new folder `folder`. Raises InputError if it cannot be made with this seed."""
    started = time.monotonic()
    with atomic_folder(folder) as out:
        write_world(out, seed)
        questions = load_questions(out / "questions.jsonl", split="train")
        made = MAKERS[kind](shared, kind, seed, questions)
        with quiet_loading():
            made.vlm.model.to(torch.bfloat16).save_pretrained(out / "planted")
        made.vlm.processor.save_pretrained(out / "planted")
        saved = load_vlm(out / "planted", "auto", "float32")
        found = behaviour(saved, prompt_table(questions_that_can_flip(questions)))
        truth = Truth(kind, seed, *made[1:], *found, seconds=time.monotonic() - started)
        write_json(out / "truth.json", json_ready(truth._asdict()))
    return truth


def undone_by(vlm: Vlm, clean: Vlm, prompts: pd.DataFrame, runs: list[list[int]]) -> list[float]:
    """The share of flipped pairs that no longer flip once the layers of each run get the weights of `clean`.

    All that distinguishes a world's model from its base is in the weights of layers, so this is the truth about which
    layers its flips need.
    """
    pairs = pair_table(prompts)

    def flips() -> Any:
        return find_flips(prompts, pairs, measure(vlm, prompts, description="truth").margin, 0.0).flipped

    before, shares = flips(), []
    for run in runs:
        own = {layer: {k: v.clone() for k, v in vlm.layers[layer].state_dict().items()} for layer in run}
        for layer in run:
            vlm.layers[layer].load_state_dict(clean.layers[layer].state_dict())
        shares.append(float((before & ~flips()).sum() / before.sum()))
        for layer in run:
            vlm.layers[layer].load_state_dict(own[layer])
    return shares


def named_features(found: Layers) -> dict[str, Any]:
    """What a search says about features: how many are causes, alone and as families, and what it names as the gate."""
    gate = found.gate
    alone = [e.causal.net_mediated.value or 0.0 for e in found.features if e.causal and e.causal.net_mediated]
    return {
        "causes": sum(each.place == "cause" for each in found.features),
        "most mediated": max(alone, default=np.nan),
        "family causes": sum(each.place == "cause" for each in found.families),
        "family most mediated": max((each.net_mediated.value or 0.0 for each in found.families), default=np.nan),
        "gate named": "none" if gate is None else f"{gate.read_layer}:{gate.feature}" + " family" * bool(gate.family),
    }


def search_world(folder: Path, base: Path) -> list[dict[str, Any]]:
    """Search one world as a user would; returns one row per rule."""
    truth = Truth(**json.loads((folder / "truth.json").read_text()))
    if not (folder / "images").is_dir():
        write_world(folder, truth.seed)
    questions = load_questions(folder / "questions.jsonl", split="train")
    vlm = load_vlm(folder / "planted", "auto", "float32")
    started = time.monotonic()
    found = find_features(vlm, locate_saes(base / "saes"), questions, split="train").artifact
    about = {"world": folder.name, "kind": truth.kind, "seed": truth.seed, "gate": truth.gate}
    about |= {"truth": " ".join(map(str, truth.window)) or "none", "flips": truth.question_flip_rate}
    about |= {"verdict": found.verdict, "chosen": " ".join(map(str, found.layers))}
    about |= named_features(found)
    about |= {"chosen iou": overlap(found.layers, truth.window), "seconds": round(time.monotonic() - started, 1)}
    if found.layers:
        width = len(found.layers)
        rivals = [list(range(first, first + width)) for first in range(vlm.n_layers - width + 1)]
        clean, prompts = load_vlm(base / "base", "auto", "float32"), prompt_table(questions_that_can_flip(questions))
        undone, *others = undone_by(vlm, clean, prompts, [found.layers, *rivals])
        about |= {"undone": undone, "most undone": max(others)}
    return [
        about
        | {"rule": r.rule, "range": f"{r.first}-{r.last}", "iou": overlap(range(r.first, r.last + 1), truth.window)}
        for r in found.ranges
    ]


def summary(table: pd.DataFrame) -> str:
    """The verdicts by kind, the shares of right and false announcements, and how well each rule's range fits a gate."""
    worlds = table.drop_duplicates("world").assign(found=lambda w: w["verdict"] == "gate found")
    verdicts = worlds.groupby(["kind", "verdict"]).size().unstack(fill_value=0)
    parts = [verdicts.join(worlds.groupby("kind")["flips"].describe()[["min", "50%", "max"]].round(3)).to_string()]
    gated, free = worlds[worlds["truth"] != "none"], worlds[worlds["truth"] == "none"]
    if len(free):
        parts.append(f"gate found without a gate: {_share(free['found'])}")
        parts.append(f"a single cause without a gate: {_share(free['causes'] > 0)}")
        parts.append(f"a family called a cause without a gate: {_share(free['family causes'] > 0)}")
        parts.append(f"a gate named without a gate: {_share(free['gate named'] != 'none')}")
    if len(gated):
        parts.append(f"gate found, and IoU >= .5, with a gate: {_share(gated['found'] & (gated['chosen iou'] >= 0.5))}")
        ranges = table[table["truth"] != "none"].assign(fits=lambda t: t["iou"] >= 0.5)
        parts.append(ranges.pivot_table(index="kind", columns="rule", values=["iou", "fits"]).round(2).to_string())
    return "\n\n".join(parts)


def _share(found: "pd.Series[bool]") -> str:
    """The number and share of worlds, with the exact 95% interval of Clopper and Pearson."""
    low, high = proportion_confint(found.sum(), len(found), method="beta")
    return f"{found.sum()} of {len(found)}, {found.mean():.1%} [{low:.1%}, {high:.1%}]"


def main() -> None:
    """Make worlds, or search them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("actions", nargs="+", choices=["make", "search"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--base", type=Path, default=WORLD)
    parser.add_argument("--kinds", nargs="*", default=list(MAKERS), choices=list(MAKERS))
    parser.add_argument("--seeds", default="0-4", help="as 50-54 or 50,53")
    parser.add_argument("--steps", type=int, default=300, help="of a trained gate; 150 of 24 patients are enough")
    parser.add_argument("--patients", type=int, default=48, help="of a step")
    parser.add_argument("--table", type=Path, default=None)
    options = parser.parse_args()
    seeds = parse_layers(options.seeds, range(1000), 1000)
    worlds = [(kind, seed, options.out / f"{kind}-{seed}") for seed in seeds for kind in options.kinds]
    shared = None
    rows: list[dict[str, Any]] = []
    for kind, seed, folder in worlds:
        if "make" in options.actions and not folder.exists():
            shared = shared or Materials.drawn(options.base, options.steps, options.patients)
            try:
                print(make_world(folder, shared, kind, seed)._asdict(), flush=True)
            except InputError as reason:
                print(f"{folder.name}: {reason}", file=sys.stderr, flush=True)
        if "search" in options.actions and (folder / "truth.json").is_file():
            rows += search_world(folder, options.base)
            print({k: v for k, v in rows[-1].items() if k not in ("rule", "range", "iou")}, flush=True)
            if options.table:
                pd.DataFrame(rows).to_csv(options.table, index=False, float_format="%.6g")
    if rows:
        print(summary(pd.DataFrame(rows)))


if __name__ == "__main__":
    main()
