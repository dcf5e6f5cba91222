"""Folders as the commands leave them, with made-up numbers: long names, many layers and arms, some numbers missing."""

import math
from pathlib import Path

import numpy as np
import pandas as pd

from finetune.evaluation.compare import Comparison
from finetune.evaluation.evaluate import Evaluation, ReliabilityBin
from finetune.evaluation.quadrants import QUADRANTS, RELIANCE, Quadrants
from finetune.evaluation.verdict import Verdict
from interp.causal.feature_patching import FeatureTest
from interp.feature.register_grid import GridResult, LevelMean
from interp.feature.save import save_study
from interp.feature.study import FeatureStudy, GroupRecovery, Tracking
from interp.model.prompts import DEFAULT_STYLE
from interp.schemas.layers import DataEntry, Interval, Layers, ModelEntry, ProfileEntry
from interp.screening.flips import Flips
from interp.statistics import Estimate
from interp.storage.atomic import write_text
from interp.storage.json_files import write_json
from interp.views.figures.margin import delta_against_margin, delta_frame
from interp.views.figures.profile import layer_profile, profile_frame
from interp.views.figures.register import activation_by_register, register_frame
from interp.views.figures.style import Drawing, save_figures

MODEL = "a-medical-model-of-$9-and-a-name-that-is-far_too_long-for-one-line"
"""No formula either."""
MEASURES = (
    "question_flip_rate",
    "pairwise_flip_rate",
    "accuracy",
    "balanced_accuracy",
    "calibration_error",
    "text_only_agreement",
    "swap_sensitivity",
)
METRICS = ("question_flip_rate", "margin_difference", "accuracy", "first_token_accuracy", "text_only_agreement")


def around(rng: np.random.Generator, value: float, half: float = 0.05) -> Estimate:
    """An estimate with an interval around it."""
    return Estimate(value, value - half * rng.random(), value + half * rng.random())


def share(rng: np.random.Generator) -> Interval:
    return Interval.of(around(rng, rng.random()))


def layers_of(layers: int, seed: int = 0) -> Layers:
    """A search of a model of many layers; the last one has numbers that could not be had."""
    rng = np.random.default_rng(seed)
    nothing = Interval(value=None, low=None, high=None)
    names = (
        "flip_auc",
        "recovery",
        "random_patch",
        "write",
        "random_write",
        "net_write",
        "feature_patch",
        "net_feature_patch",
    )
    profile = []
    for layer in range(layers):
        found = {name: share(rng) for name in names}
        if layer == layers - 1:
            found |= {"net_feature_patch": None, "net_write": nothing}
        about = {"layer": layer, "flip_auc_null": 0.6, "reversals": 3, "fvu": 0.01, "l0": 70.0}
        profile.append(ProfileEntry(**about, **found))
    return Layers(
        schema_version=2,
        verdict="gate found",
        reason="made up",
        layers=[2, 3],
        peak=3,
        rule="write",
        ranges=[],
        model=ModelEntry(id=MODEL, revision=None, n_layers=layers, d_model=8, dtype="float32"),
        saes={},
        data=DataEntry(
            fingerprint="0",
            split="train",
            questions=9,
            pairs=9,
            patients=9,
            flips=3,
            flip_bank=3,
            question_flip_rate=share(rng),
            pairwise_flip_rate=share(rng),
            accuracy=share(rng),
        ),
        profile=profile,
        features=[],
        settings={},
        seed=seed,
        software={},
    )


def flips_of(pairs: int, seed: int = 0) -> tuple[np.ndarray, Flips]:
    """Deltas of a feature, and the pairs that they are of."""
    rng = np.random.default_rng(seed)
    before, after = rng.normal(0, 2, pairs), rng.normal(0, 2, pairs)
    flipped = (before > 0) != (after > 0)
    table = pd.DataFrame({"patient": [f"patient{i}" for i in range(pairs)]})
    return rng.normal(0, 3, pairs), Flips(table, before, after, flipped, flipped)


def search_folder(folder: Path, layers: int = 34, pairs: int = 300) -> Path:
    """A run of `interp find-features`, its table of features apart."""
    artifact, rng = layers_of(layers), np.random.default_rng(1)
    write_text(folder / "layers.json", artifact.model_dump_json())
    delta = delta_frame(17, 103818, *flips_of(pairs))
    register = rng.choice(np.array(["formal", "casual", None], object), 200)
    wordings = register_frame(17, 103818, rng.exponential(2, 200).astype(np.float32), register)
    save_figures(
        [
            Drawing("layer_profile", profile_frame(artifact), lambda size: layer_profile(artifact, size=size)),
            Drawing("delta_margin", delta, lambda size: delta_against_margin(delta, size=size)),
            Drawing("register", wordings, lambda size: activation_by_register(wordings, size=size)),
        ],
        folder,
    )
    return folder


def study_of(pairs: int = 300, test: bool = True) -> FeatureStudy:
    """A feature study with more groups than a figure shows."""
    rng = np.random.default_rng(2)
    delta, flips = flips_of(pairs)
    groups = [
        GroupRecovery(grouping, f"{grouping}_of_a_long_name_{i}", 40 - i, 9, 3.5, around(rng, rng.random()))
        for grouping in ("finding", "phenomenon", "registers")
        for i in range(6)
    ]
    groups[-1] = groups[-1]._replace(recovery=Estimate(0.4, math.nan, math.nan))
    tested = FeatureTest(
        layer=17,
        feature=103818,
        n=40,
        recovery=around(rng, 0.3),
        random=0.01,
        matched=math.nan,
        swapped=0.02,
        net=around(rng, 0.29),
        p=0.01,
        p_random=0.2,
        reversals=4,
        random_reversals=0.1,
        unflipped_changed=0.0,
        dose=(0.2, 0.3, 0.4, 0.35),
    )
    cells = pd.DataFrame(
        [(level, f"frame {k} {{x}}", "nodule", 20, rng.random()) for level in range(5) for k in range(4)],
        columns=["level", "frame", "finding", "prompts", "mean_activation"],
    )
    levels = [LevelMean(level, 80, around(rng, 5.0 - level)) for level in range(5)]
    one = around(rng, 0.8)
    return FeatureStudy(
        model=MODEL,
        revision=None,
        prompt=DEFAULT_STYLE,
        sae="sae",
        layer=17,
        feature=103818,
        d_sae=262144,
        fingerprint="0",
        questions=9,
        patients=9,
        density=0.5,
        tracking=Tracking(pairs, 3, one, one, 1),
        test=tested if test else None,
        groups=groups if test else [],
        grid=GridResult(20, ["nodule"], levels, one, one, 9, one, cells),
        neighbours=[],
        direct_effect=0.1,
        margin_slope=0.1,
        neuronpedia=None,
        notes=[],
        delta=delta,
        flips=flips,
        seed=0,
    )


def study_folder(folder: Path) -> Path:
    """What `interp test-feature --out` leaves."""
    save_study(study_of(), folder)
    return folder


def evaluation_of(arms: int = 4) -> Evaluation:
    """An evaluation of some arms, two of them pooled over their seeds."""
    rng = np.random.default_rng(3)
    names = ["base", *(f"adapter-of-layers-{i}-and-a-long-name" for i in range(arms)), "seed-0", "seed-1"]
    pools = {"seeds pooled": ["seed-0", "seed-1"]}
    judged = [*names[1:], *pools]
    comparisons = []
    for arm in judged:
        for measure in MEASURES:
            three = (around(rng, rng.random() - 0.5) for _ in range(3))
            comparisons.append(Comparison("all", "all", measure, "base", arm, 9, 9, *three, 0, "t", 0.1, 0.1))
    return Evaluation(
        arms={name: [] for name in names},
        pools=pools,
        comparisons=comparisons,
        quadrants=[
            Quadrants(name, kind, 100, {q: around(rng, rng.random()) for q in QUADRANTS}, [[0] * 4] * 4, 1.0)
            for name in names
            for kind in RELIANCE
        ],
        reliability=[
            ReliabilityBin(name, 0.5 + i / 20, 8 + i, 0.52 + i / 20, rng.random()) for name in names for i in range(10)
        ],
        verdicts={name: Verdict("not judged", "made up", []) for name in judged},
        controls={},
        tolerance=0.05,
        model=MODEL,
        questions=894,
        patients=320,
        data="0",
        seed=0,
    )


def history_of(steps: int = 90, grounding: float = 0.0) -> pd.DataFrame:
    """The course of a training over three epochs."""
    rng, step = np.random.default_rng(4), np.arange(1, steps + 1)
    ce, kl = 5 * np.exp(-step / 30) * rng.random(steps), np.where(step % 7, rng.random(steps) / step, 0)
    table = {"step": step, "epoch": 1 + 3 * (step - 1) // steps, "lr": 2e-4 * (1 - step / steps), "loss": ce + kl}
    return pd.DataFrame(table | {"ce": ce, "kl": kl, "grounding": grounding, "grad_norm": rng.exponential(2, steps)})


def adapter_folder(folder: Path) -> Path:
    """Of what `finetune` leaves, what is drawn."""
    write_text(folder / "evaluation.json", evaluation_of().to_json())
    history_of().to_csv(folder / "history.csv", index=False)
    return folder


def ablation_folder(folder: Path) -> Path:
    """Of ablation.json, what is drawn; the tests of the ablation hold this against a real one."""
    rng = np.random.default_rng(5)
    kinds = [("chosen", "chosen 15-19"), *(("window", f"window {i}-{i + 4}") for i in range(8))]
    kinds += [("third", "early third 0-10"), ("random", "random 2, 4, 9, 13, 30"), ("all", "all layers")]
    kinds += [("all-matched", "all layers, as many parameters"), ("no-consistency", "chosen, answers alone")]
    metrics = [{name: share(rng).model_dump() for name in (*METRICS, "combined")} for _ in range(len(kinds) + 1)]
    metrics[3]["accuracy"] = {"value": 0.5, "low": None, "high": None}
    content = {
        "schema_version": 1,
        "model": {"id": MODEL},
        "data": {"questions": 894, "patients": 320},
        "base": metrics[-1],
        "arms": [{"name": n, "kind": k, "metrics": m} for (k, n), m in zip(kinds, metrics, strict=False)],
    }
    write_json(folder / "ablation.json", content)
    return folder


def grounding_folder(folder: Path) -> Path:
    """Of grounding.json, what is drawn; the tests of the grounding study hold this against a real one."""
    rng = np.random.default_rng(6)
    maps = ("attention", "rollout", "gradient", "integrated", "feature", "occlusion")
    scores = (("mass", "random"), ("mass", "shifted"), ("coverage", "random"), ("pointing", "random"))
    scores += (("rank_agreement", "other image"), ("deletion_probability", "random order"))
    scores += (("paraphrase_agreement", "other image"),)
    arms = ("base", "adapter")
    content = {
        "schema_version": 1,
        "model": MODEL,
        "questions": 20,
        "summary": [
            {"arm": arm, "map": m, "score": s, "against": a, "n": 20, "net": share(rng).model_dump()}
            for arm in arms
            for m in maps
            for s, a in scores
            if (s, m) != ("pointing", "rollout") and (s, arm) != ("deletion_probability", "adapter")
        ],
        "curves": [
            {"arm": arm, "map": m, "kind": kind, "share": k / 8, "margin": rng.normal(), "probability": rng.random()}
            for arm in arms
            for m in (*maps, "random")
            for kind in ("deletion", "insertion")
            for k in range(9)
        ],
    }
    write_json(folder / "grounding.json", content)
    return folder


FOLDERS = {
    "search": search_folder,
    "study": study_folder,
    "adapter": adapter_folder,
    "ablation": ablation_folder,
    "grounding": grounding_folder,
}
"""What is drawn -> a folder with its data."""
