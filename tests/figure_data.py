"""Folders as the commands write them, of made-up numbers: long names, many layers and arms, some numbers missing."""

from pathlib import Path

import numpy as np
import pandas as pd

from finetune.evaluation.quadrants import QUADRANTS, RELIANCE
from finetune.evaluation.result import Evaluation
from interp.feature.save import save_study
from interp.feature.study import FeatureStudy
from interp.schemas.ablation import METRICS, Ablation, AblationArm, AblationData
from interp.schemas.evaluation import Comparison, Quadrants, ReliabilityBin, Verdict
from interp.schemas.feature_content import FeatureContent, Firing, NearestPage, TokenEffect
from interp.schemas.grounding import CurvePoint, Grounding, GroundingSummary
from interp.schemas.layers import DataEntry, Layers, ModelEntry, ProfileEntry
from interp.schemas.record import Interval, interval_of
from interp.schemas.study import FeatureTestEntry, Grid, GroupRecovery, LevelMean, Tracking
from interp.screening.flips import Flips
from interp.statistics import Estimate
from interp.storage.atomic import write_text
from interp.views.figures.margin import delta_against_margin, delta_frame
from interp.views.figures.profile import layer_profile, profile_frame
from interp.views.figures.register import activation_by_register, register_frame
from interp.views.figures.style import Drawing, save_figures

MODEL = "a-medical-model-of-$9-and-a-name-that-is-far_too_long-for-one-line"
"""A name with dollar signs, which are not a formula."""
MEASURES = (
    "question_flip_rate",
    "pairwise_flip_rate",
    "accuracy",
    "balanced_accuracy",
    "calibration_error",
    "text_only_agreement",
    "swap_sensitivity",
)


def around(rng: np.random.Generator, value: float, half: float = 0.05) -> Estimate:
    """An estimate with an interval around it."""
    return Estimate(value, value - half * rng.random(), value + half * rng.random())


def share(rng: np.random.Generator) -> Interval:
    return Interval.of(around(rng, rng.random()))


PATCHES = (
    "flip_auc",
    "recovery",
    "random_patch",
    "write",
    "random_write",
    "net_write",
    "feature_patch",
    "net_feature_patch",
)
"""Intervals of a layer in a search of any schema version."""
ANSWER_PATCHES = ("answer", "random_answer", "answer_growth", "register_patch", "random_register")
"""Those that schema version 3 added."""


def layers_of(layers: int, seed: int = 0, answers: bool = True) -> Layers:
    """A search of a model with many layers; some numbers of the last layer are undefined.

    Without `answers` it is as schema version 2 was.
    """
    rng = np.random.default_rng(seed)
    nothing = Interval(value=None, low=None, high=None)
    profile = []
    for layer in range(layers):
        found = {name: share(rng) for name in (*PATCHES, *(ANSWER_PATCHES if answers else ()))}
        if layer == layers - 1:
            found |= {"net_feature_patch": None, "net_write": nothing, "answer_growth": None, "register_patch": nothing}
        about = {"layer": layer, "flip_auc_null": 0.6, "reversals": 3, "fvu": 0.01, "l0": 70.0}
        profile.append(ProfileEntry(**about, **found))
    return Layers(
        verdict="gate found",
        reason="made up",
        layers=[2, 3],
        peak=3,
        rule="answer" if answers else "write",
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
    """The deltas [pairs] of a feature, and the pairs."""
    rng = np.random.default_rng(seed)
    before, after = rng.normal(0, 2, pairs), rng.normal(0, 2, pairs)
    flipped = (before > 0) != (after > 0)
    table = pd.DataFrame({"patient": [f"patient{i}" for i in range(pairs)]})
    return rng.normal(0, 3, pairs), Flips(table, before, after, flipped, flipped)


def pairs_of(pairs: int) -> pd.DataFrame:
    """The data of a scatter of delta against margin shift."""
    delta, flips = flips_of(pairs)
    return delta_frame(17, 103818, delta, flips.margin_after - flips.margin_before, flips.flipped)


def search_folder(folder: Path, layers: int = 34, pairs: int = 300) -> Path:
    """A run of `interp find-features` without its table of features."""
    artifact, rng = layers_of(layers), np.random.default_rng(1)
    write_text(folder / "layers.json", artifact.model_dump_json())
    delta = pairs_of(pairs)
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
        GroupRecovery(
            grouping=grouping,
            group=f"{grouping}_of_a_long_name_{i}",
            pairs=40 - i,
            patients=9,
            shift=3.5,
            recovery=interval_of(around(rng, rng.random())),
        )
        for grouping in ("finding", "phenomenon", "registers")
        for i in range(6)
    ]
    groups[-1] = groups[-1].model_copy(update={"recovery": Interval(value=0.4, low=None, high=None)})
    tested = FeatureTestEntry(
        layer=17,
        feature=103818,
        n=40,
        recovery=interval_of(around(rng, 0.3)),
        random=0.01,
        matched=None,
        swapped=0.02,
        net=interval_of(around(rng, 0.29)),
        p=0.01,
        p_random=0.2,
        reversals=4,
        random_reversals=0.1,
        unflipped_changed=0.0,
        dose=[0.2, 0.3, 0.4, 0.35],
    )
    cells = pd.DataFrame(
        [(level, f"frame {k} {{x}}", "nodule", 20, rng.random()) for level in range(5) for k in range(4)],
        columns=["level", "frame", "finding", "prompts", "mean_activation"],
    )
    levels = [LevelMean(level=k, prompts=80, mean=interval_of(around(rng, 5.0 - k))) for k in range(5)]
    one = interval_of(around(rng, 0.8))
    return FeatureStudy(
        model=MODEL,
        revision=None,
        sae="sae",
        layer=17,
        feature=103818,
        d_sae=262144,
        fingerprint="0",
        questions=9,
        patients=9,
        density=0.5,
        tracking=Tracking(pairs=pairs, flips=3, r=one, flip_auc=one, largest=1),
        test=tested if test else None,
        groups=groups if test else [],
        doses=[0.5, 1, 2, 4],
        grid=Grid(
            images=20,
            findings=["nodule"],
            levels=levels,
            auc=one,
            spearman=one,
            controlled_pairs=9,
            controlled=one,
        ),
        neighbours=[],
        direct_effect=0.1,
        margin_slope=0.1,
        neuronpedia=None,
        notes=[],
        seed=0,
        software={},
        cells=cells,
        delta=delta,
        flips=flips,
        content=FeatureContent(
            synthetic=False,
            sae=None,
            promoted=[TokenEffect(token=" no", logits=0.2)],
            suppressed=[TokenEffect(token="yes", logits=-0.1)],
            firing=[Firing(grouping="register", group="formal", wordings=9, patients=9, active=one, mean=one)],
            nearest_page=NearestPage(address="https://n/1", layer=9, feature=1, sae="s", cosine=0.5),
        ),
        wordings=pd.DataFrame({"text": ["Is it there?"]}),
    )


def study_folder(folder: Path) -> Path:
    """The files that `interp test-feature --out` writes."""
    save_study(study_of(), folder)
    return folder


def evaluation_of(arms: int = 4) -> Evaluation:
    """An evaluation of several arms, two of which are pooled over their seeds."""
    rng = np.random.default_rng(3)
    names = ["base", *(f"adapter-of-layers-{i}-and-a-long-name" for i in range(arms)), "seed-0", "seed-1"]
    pools = {"seeds pooled": ["seed-0", "seed-1"]}
    judged = [*names[1:], *pools]
    comparisons = []
    for arm in judged:
        for measure in MEASURES:
            before, after, difference = (interval_of(around(rng, rng.random() - 0.5)) for _ in range(3))
            comparisons.append(
                Comparison(
                    kind="all",
                    subset="all",
                    measure=measure,
                    reference="base",
                    arm=arm,
                    n=9,
                    patients=9,
                    before=before,
                    after=after,
                    difference=difference,
                    effect_size=0,
                    test="t",
                    p=0.1,
                    p_unpaired=0.1,
                )
            )
    return Evaluation(
        arms={name: [] for name in names},
        pools=pools,
        comparisons=comparisons,
        quadrants=[
            Quadrants(
                arm=name,
                reliance=kind,
                questions=100,
                shares={q: interval_of(around(rng, rng.random())) for q in QUADRANTS},
                moves=[[0] * 4] * 4,
                p=1.0,
            )
            for name in names
            for kind in RELIANCE
        ],
        reliability=[
            ReliabilityBin(
                arm=name,
                low=0.5 + i / 20,
                n=8 + i,
                confidence=0.52 + i / 20,
                accuracy=(accuracy := share(rng)).value,
                interval=accuracy,
            )
            for name in names
            for i in range(10)
        ],
        quadrant_order=list(QUADRANTS),
        verdicts={name: Verdict(label="not judged", sentence="made up", axes=[]) for name in judged},
        controls={},
        tolerance=0.05,
        model=MODEL,
        questions=894,
        patients=320,
        data="0",
        seed=0,
        software={},
    )


def history_of(steps: int = 90, grounding: float = 0.0) -> pd.DataFrame:
    """The history of a training run of three epochs."""
    rng, step = np.random.default_rng(4), np.arange(1, steps + 1)
    ce, kl = 5 * np.exp(-step / 30) * rng.random(steps), np.where(step % 7, rng.random(steps) / step, 0)
    table = {"step": step, "epoch": 1 + 3 * (step - 1) // steps, "lr": 2e-4 * (1 - step / steps), "loss": ce + kl}
    return pd.DataFrame(table | {"ce": ce, "kl": kl, "grounding": grounding, "grad_norm": rng.exponential(2, steps)})


def adapter_folder(folder: Path) -> Path:
    """The files of `finetune` that figures are drawn from."""
    write_text(folder / "evaluation.json", evaluation_of().to_json())
    history_of().to_csv(folder / "history.csv", index=False)
    return folder


def ablation_folder(folder: Path) -> Path:
    """An ablation of many arms; one of them has no interval."""
    rng = np.random.default_rng(5)
    kinds = [("chosen", "chosen 15-19"), *(("window", f"window {i}-{i + 4}") for i in range(8))]
    kinds += [("third", "early third 0-10"), ("random", "random 2, 4, 9, 13, 30"), ("all", "all layers")]
    kinds += [("all-matched", "all layers, as many parameters"), ("no-consistency", "chosen, answers alone")]
    metrics = [{name: share(rng) for name in METRICS} for _ in range(len(kinds) + 1)]
    metrics[3]["accuracy"] = Interval(value=0.5, low=None, high=None)
    training = {"rank": 16, "alpha": 32, "consistency_weight": 1, "answer_weight": 1, "parameters": 9}
    course = {"cross_entropy": [0.2], "divergence": [0.1], "seconds": [3]}
    compared = {"against_base": {}, "against_chosen": {}}
    found = Ablation(
        conclusion=[],
        chosen=[15],
        layers_from="layers.json",
        model=ModelEntry(id=MODEL, revision=None, n_layers=34, d_model=8, dtype="float32"),
        base_weights="0",
        data=AblationData(trained_on="0", training_questions=9, asked="0", questions=894, patients=320),
        settings={},
        base=metrics[-1],
        arms=[
            AblationArm(name=name, kind=kind, layers=[15], metrics=of, **training, **course, **compared)
            for (kind, name), of in zip(kinds, metrics, strict=False)
        ],
        regret=[],
        worth=[],
        software={},
    )
    write_text(folder / "ablation.json", found.to_json())
    return folder


def grounding_folder(folder: Path) -> Path:
    """A grounding study of many maps; some scores are missing in one map or arm."""
    rng = np.random.default_rng(6)
    maps = ("attention", "rollout", "gradient", "integrated", "feature", "occlusion")
    scores = (("mass", "random"), ("mass", "shifted"), ("coverage", "random"), ("pointing", "random"))
    scores += (("rank_agreement", "other image"), ("deletion_probability", "random order"))
    scores += (("paraphrase_agreement", "other image"),)
    arms = ("base", "adapter")
    found = Grounding(
        model=MODEL,
        arms=list(arms),
        data="0",
        questions=20,
        patients=20,
        right={"base": 0.8, "adapter": 0.9},
        summary=[
            GroundingSummary(
                arm=arm,
                map=m,
                score=s,
                against=a,
                n=20,
                patients=20,
                value=share(rng),
                control=share(rng),
                net=share(rng),
                p=0.1,
            )
            for arm in arms
            for m in maps
            for s, a in scores
            if (s, m) != ("pointing", "rollout") and (s, arm) != ("deletion_probability", "adapter")
        ],
        differences=[],
        curves=[
            CurvePoint(arm=arm, map=m, kind=kind, share=k / 8, margin=rng.normal(), probability=rng.random())
            for arm in arms
            for m in (*maps, "random")
            for kind in ("deletion", "insertion")
            for k in range(9)
        ],
        settings={},
        software={},
    )
    write_text(folder / "grounding.json", found.to_json())
    return folder


FOLDERS = {
    "search": search_folder,
    "study": study_folder,
    "adapter": adapter_folder,
    "ablation": ablation_folder,
    "grounding": grounding_folder,
}
"""Kind of figure -> function that writes a folder with its data."""
