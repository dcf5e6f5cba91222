"""A small run on disk for the tests of the report: the real writers write it, with random numbers."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from figure_data import study_of
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from finetune.ablation.result import Ablation
from finetune.evaluation.assess import verdict_record
from finetune.evaluation.compare import ArmComparison
from finetune.evaluation.measures import MEASURES
from finetune.evaluation.quadrants import QUADRANTS, RELIANCE
from finetune.evaluation.result import Evaluation
from finetune.evaluation.verdict import verdict
from finetune.grounding.score_table import GROUNDING_SCORES
from finetune.grounding.settings import GroundingSettings
from finetune.grounding.study import GroundingStudy
from interp.schemas.adapter import AdapterRecord
from interp.schemas.evaluation import Quadrants, ReliabilityBin
from interp.schemas.layers import Layers, write_layers
from interp.schemas.record import Interval
from interp.schemas.study import Neighbour
from interp.statistics import Estimate
from interp.storage.atomic import write_text
from interp.storage.json_files import json_ready
from interp.storage.provenance import provenance, software

MODEL = {"id": "planted", "revision": None, "n_layers": 4, "d_model": 64, "dtype": "float32"}
ARTIFACTS = ("search", "feature", "training", "evaluation", "grounding", "ablation")
FINGERPRINTS = {name: f"{i}f" * 16 for i, name in enumerate(ARTIFACTS)}
METRICS = ("question_flip_rate", "margin_difference", "accuracy", "first_token_accuracy", "text_only_agreement")


class Draw:
    """Random numbers for the fields."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)

    def number(self, low: float = -1, high: float = 1) -> float:
        return round(float(self.rng.uniform(low, high)), 4)

    def estimate(self, low: float = -1, high: float = 1) -> Estimate:
        value, reach = self.number(low, high), self.number(0.01, 0.2)
        return Estimate(value, round(value - reach, 4), round(value + reach, 4))

    def interval(self, low: float = -1, high: float = 1) -> dict[str, Any]:
        return Interval.of(self.estimate(low, high)).model_dump()


def write_run(run: Path, gate: bool = True) -> None:
    """Write a whole run: search, feature study, adapter, grounding study with examples, ablation."""
    draw = Draw()
    write_search(run, draw, gate)
    write_study(run / "feature")
    write_adapter(run / "adapter", draw)
    write_grounding(run / "grounding", draw)
    write_text(run / "ablation" / "ablation.json", ablation(draw).to_json())


def write_search(run: Path, draw: Draw, gate: bool = True) -> None:
    write_layers(layers(draw, gate), run / "layers.json")
    screened = pd.DataFrame({"layer": [0, 0, 1], "feature": [4, 9, 2], "flip_p": [0.2, 0.01, 0.04]})
    screened.to_parquet(run / "features.parquet", index=False)
    delta = draw.rng.normal(size=30)
    pairs = {"layer": 1, "feature": 20, "delta": delta, "shift": delta + draw.rng.normal(size=30), "flipped": delta > 1}
    pd.DataFrame(pairs).to_csv(run / "delta_margin.csv", index=False)
    heard = {"layer": 1, "feature": 20, "register": ["formal", "casual"] * 15, "activation": np.abs(delta)}
    pd.DataFrame(heard).to_csv(run / "register.csv", index=False)


def layers(draw: Draw, gate: bool) -> Layers:
    def profile(layer: int) -> dict[str, Any]:
        names = (
            "flip_auc",
            "recovery",
            "random_patch",
            "write",
            "random_write",
            "net_write",
            "net_feature_patch",
            "r2",
            "answer",
            "random_answer",
            "answer_growth",
            "register_patch",
            "random_register",
        )
        known = {name: draw.interval() for name in names}
        return known | {
            "layer": layer,
            "flip_auc_null": 0.61,
            "reversals": layer + 3,
            "fvu": 0.04,
            "l0": draw.number(10, 90),
            "transfer": "pass",
        }

    def feature(layer: int, index: int) -> dict[str, Any]:
        names = ("flip_auc", "flip_p", "held_out_auc", "delta_on_flips", "delta_otherwise", "margin_r", "density")
        known = {name: draw.number(0, 1) for name in (*names, "mean_activation", "register_auc", "attribution")}
        controls = {name: draw.number() for name in ("random", "matched", "swapped", "random_reversals")}
        causal = controls | {
            "n": 40,
            "recovery": draw.interval(),
            "net": draw.interval(),
            "p": draw.number(0.001, 1),
            "p_random": 0.04,
            "reversals": 11 + layer,
            "unflipped_changed": draw.number(0, 1),
            "dose": [draw.number() for _ in range(4)],
            "direct": draw.interval(),
            "mediated": draw.interval(),
        }
        return known | {"layer": layer, "feature": index, "place": "echo", "causal": causal}

    def family(layer: int, *features: int) -> dict[str, Any]:
        names = ("recovery", "net", "direct", "net_mediated")
        about = {"layer": layer, "features": list(features), "place": "echo", "path_attribution": draw.number()}
        return about | {name: draw.interval() for name in names} | {"p": 0.2, "p_mediated": 0.03, "reversals": 17}

    def taken(rule: str, first: int, last: int, peak: int) -> dict[str, Any]:
        tests = ("share", "formed", "arrived", "restored", "random_restored", "broken", "random_broken")
        return {"rule": rule, "first": first, "last": last, "peak": peak} | {name: draw.interval() for name in tests}

    content = {
        "schema_version": 3,
        "verdict": "gate found" if gate else "no gate found",
        "reason": "layers 1-2 make 0.91 of the flipped answers",
        "layers": [1, 2] if gate else [],
        "peak": 2 if gate else None,
        "rule": "answer",
        "commit_layer": 1,
        "ranges": [taken("answer", 1, 2, 2), taken("write", 1, 3, 2), taken("near-peak", 0, 2, 1)],
        "formality": {"layer": 1, "recovery": draw.interval(), "random": draw.interval(), "holds": gate},
        "model": MODEL,
        "saes": {str(layer): f"layer_{layer}_width_1k" for layer in range(4)},
        "data": {
            "fingerprint": FINGERPRINTS["search"],
            "split": "train",
            "questions": 120,
            "pairs": 480,
            "patients": 77,
            "flips": 31,
            "flip_bank": 22,
            **{name: draw.interval(0, 1) for name in ("question_flip_rate", "pairwise_flip_rate", "accuracy")},
        },
        "profile": [profile(layer) for layer in range(4)],
        "features": [feature(1, 20), feature(2, 7), feature(3, 500)],
        "families": [family(0, 4, 9, 3), family(1, 20)],
        "warnings": ["whether the SAEs of layers 3 explain 95% is unclear from these data"],
        "settings": {"rule": "answer", "max_layers": 5, "layers": [0, 1, 2, 3]},
        "seed": 12,
        "software": software(),
        "provenance": MADE,
    }
    return Layers.model_validate(content)


MADE = {
    "commit": "5e1f" * 10,
    "device": "2 x NVIDIA H100 80GB HBM3",
    "command": "interp find-features --model … --layers 0-3",
    "started": "2026-01-02T03:04:05+00:00",
}
"""The provenance of the search."""


def write_study(folder: Path) -> None:
    near = [Neighbour(feature=31, cosine=0.75), Neighbour(feature=8, cosine=0.5)]
    about = {"neighbours": near, "fingerprint": FINGERPRINTS["feature"], "notes": ["Some have no interval."]}
    study = study_of().model_copy(update=about)
    write_text(folder / "study.json", study.to_json())
    study.cells.to_csv(folder / "grid.csv", index=False)
    study.deltas().to_csv(folder / "delta_margin.csv", index=False)


def write_adapter(folder: Path, draw: Draw) -> None:
    record = AdapterRecord(
        model=MODEL,
        layers=[1, 2],
        layers_from="layers.json, rule answer",
        settings={"rank": 16, "alpha": 32, "seed": 3, "lr": 2e-4},
        data=FINGERPRINTS["training"],
        questions=210,
        paraphrases=840,
        patients=99,
        text_hashes=["0f" * 16],
        steps=40,
        first_loss=9.5,
        last_loss=0.25,
        trainable_parameters=12345,
        seconds=35.8,
        software=software(),
    )
    write_text(folder / "gatescope.json", record.model_dump_json(indent=2))
    steps = np.arange(1, 41)
    history = {"step": steps, "epoch": 1 + (steps > 20), "lr": 1e-4, "loss": 9.0 / steps, "ce": 5.0 / steps}
    more = {"kl": 4.0 / steps, "grounding": 0.0, "grad_norm": 1.0}
    pd.DataFrame(history | more).to_csv(folder / "history.csv", index=False)
    write_text(folder / "evaluation.json", evaluation(draw).to_json())


def evaluation(draw: Draw) -> Evaluation:
    def comparison(measure: str, kind: str, subset: str) -> ArmComparison:
        before, after, difference = draw.estimate(0, 1), draw.estimate(0, 1), draw.estimate(-0.5, 0.5)
        tested = {"effect_size": 0.1, "test": "permutation", "p": draw.number(0.001, 1), "p_unpaired": float("nan")}
        about = {"reference": "base", "arm": "adapter", "n": int(draw.rng.integers(10, 900)), "patients": 50}
        estimates = {"before": before, "after": after, "difference": difference}
        return ArmComparison(kind=kind, subset=subset, measure=measure, **about, **estimates, **tested)

    found = [comparison(measure, "all", "all") for measure in MEASURES]
    found += [
        comparison(measure, "finding", subset)
        for subset in ("effusion", "nodule")
        for measure in ("question_flip_rate", "accuracy", "text_only_agreement")
    ]
    quadrants = [
        Quadrants(
            arm=arm,
            reliance=reliance,
            questions=100,
            shares={name: draw.interval(0, 1) for name in QUADRANTS},
            moves=(
                np.diag([40, 10, 30, 20]) if arm == "base" else draw.rng.multinomial(100, [1 / 16] * 16).reshape(4, 4)
            ).tolist(),
            p=draw.number(0.001, 1),
        )
        for arm in ("base", "adapter")
        for reliance in RELIANCE
    ]
    bins = [
        ReliabilityBin(arm=arm, low=low, n=40, confidence=low + 0.02, accuracy=draw.number(0.4, 1))
        for arm in ("base", "adapter")
        for low in (0.5, 0.6, 0.7)
    ]
    return Evaluation(
        arms={"base": [], "adapter": []},
        pools={},
        comparisons=[json_ready(each) for each in found],
        quadrants=quadrants,
        quadrant_order=list(QUADRANTS),
        reliability=bins,
        verdicts={"adapter": verdict_record(verdict(found, "base", "adapter"))},
        controls={},
        tolerance=0.05,
        model="planted",
        questions=150,
        patients=66,
        data=FINGERPRINTS["evaluation"],
        seed=5,
        software=software(),
        provenance=provenance(),
    )


def write_grounding(folder: Path, draw: Draw) -> None:
    against = {"rank_agreement": "other image", "paraphrase_agreement": "other image"}
    against["deletion_probability"] = "random order"
    keys = [
        {"map": name, "score": score, "against": against.get(score, "random")}
        for score in GROUNDING_SCORES
        for name in ("attention", "occlusion")
    ]
    study = GroundingStudy(
        model="planted",
        arms=["base", "adapter"],
        settings=json_ready(asdict(GroundingSettings())),
        feature=None,
        data=FINGERPRINTS["grounding"],
        questions=18,
        patients=17,
        right={"base": 0.8, "adapter": 0.9},
        summary=[
            {"arm": arm, **key, "n": 18, "patients": 17, "p": draw.number(0.001, 1)}
            | {name: draw.interval() for name in ("value", "control", "net")}
            for arm in ("base", "adapter")
            for key in keys
        ],
        differences=[
            {**key, "n": 18, "patients": 17, "difference": draw.interval(), "p": draw.number(0.001, 1)} for key in keys
        ],
        curves=[
            {"arm": arm, "map": name, "kind": kind, "share": share, "margin": 1.0, "probability": draw.number(0, 1)}
            for arm in ("base", "adapter")
            for name in ("attention", "occlusion", "random")
            for kind in ("deletion", "insertion")
            for share in (0.0, 0.5, 1.0)
        ],
        software=software(),
        provenance=provenance(),
        scores=pd.DataFrame(),
        maps={},
        asked=[],
    )
    write_text(folder / "grounding.json", study.to_json())
    about = PngInfo()
    about.add_text("Software", "Matplotlib version 3, https://matplotlib.org/")
    pixels = draw.rng.integers(0, 255, (20, 30, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "examples.png", pnginfo=about)


def ablation(draw: Draw) -> Ablation:
    def metrics() -> dict[str, Any]:
        return {name: draw.interval(0, 1) for name in (*METRICS, "combined")}

    def arm(name: str, kind: str, trained: list[int]) -> dict[str, Any]:
        made = {"rank": 16, "alpha": 32, "consistency_weight": 1.0, "answer_weight": 1.0, "parameters": 1000}
        found = {field: metrics() for field in ("metrics", "against_base", "against_chosen")}
        went = {"cross_entropy": [0.2], "divergence": [0.1], "seconds": [3.0]}
        return {"name": name, "kind": kind, "layers": trained} | made | went | found

    names = ("chosen 1-2", "window 0-1", "window 2-3")
    ranks = [{"arm": name, "first": 1, "last": 2 + i} for i, name in enumerate(names)]
    content = {
        "conclusion": ["The chosen range ties with the best window.", "No score of the profile is shown to tell."],
        "chosen": [1, 2],
        "layers_from": "layers.json",
        "model": MODEL,
        "base_weights": "e5" * 16,
        "prompt": {},
        "data": {
            "trained_on": "f6",
            "training_questions": 9,
            "asked": FINGERPRINTS["ablation"],
            "questions": 140,
            "patients": 60,
        },
        "settings": {"seeds": [0, 1], "training": {"rank": 16}},
        "base": metrics(),
        "arms": [arm(names[0], "chosen", [1, 2]), arm(names[1], "window", [0, 1]), arm(names[2], "window", [2, 3])],
        "regret": [
            {
                "metric": name,
                "best": names[1],
                "optimistic": draw.number(0, 0.1),
                "regret": draw.interval(-0.1, 0.1),
                "picked": dict.fromkeys(names, 0.3),
                "ranks": ranks,
            }
            for name in (*METRICS, "combined")
        ],
        "worth": [
            {"score": score, "metric": "combined", "windows": 3, "rho": draw.interval(), "p": p}
            for score, p in (("flip AUC", 0.01), ("depth", 0.4))
        ],
        "rules": [
            {"score": "depth", "arm": names[1], "regret": {name: draw.interval() for name in (*METRICS, "combined")}},
            {"score": "chance", "arm": None, "regret": {name: draw.interval() for name in (*METRICS, "combined")}},
        ],
        "software": software(),
    }
    return Ablation.model_validate(content)


def edit(path: Path, change: Callable[[Any], object]) -> None:
    """Change the content of a JSON file in place."""
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
