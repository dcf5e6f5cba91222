"""`find_features`: from questions to the layers worth training, in one call.

Margins and residuals -> flips -> screen of every feature on one half of the patients -> layer profile on the other
half -> range, verdict and `layers.json`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from interp.artifact import (
    SCHEMA_VERSION,
    DataEntry,
    FeatureEntry,
    Interval,
    Layers,
    ModelEntry,
    ProfileEntry,
    PromptEntry,
    RangeEntry,
    Verdict,
)
from interp.errors import InputError
from interp.features import SCREEN_COLUMNS, Flips, adjust, find_flips, flip_score, screen_layer
from interp.files import software
from interp.fit import R2_NEEDED, Fit, Transfer, judge_transfer, reconstruct, summarize
from interp.inversion import inverting_operator
from interp.layers import LayerRange, Rule, growth_range, level_range
from interp.patching import LayerPatch, patch_layers
from interp.progress import track
from interp.questions import Question, fingerprint, pair_table, prompt_table
from interp.saes import Sae, load_sae, sae_shapes
from interp.statistics import Estimate, auc, clusters_drawn, mean_interval, ratio_interval
from interp.vlm import Vlm, measure

DRAWS = 1000
FEATURES_KEPT = 20


@dataclass(frozen=True)
class FindSettings:
    """What the search does; every field is recorded in layers.json."""

    rule: Rule = "write"
    """Which rule takes the range that is written as `layers`."""
    max_width: int = 5
    """Most layers a range may hold."""
    bank_margin: float = 0.25
    """Least |m| [logits] on both sides of a pair of the flip bank; bfloat16 alone blurs some hundredths."""
    features_a_layer: int = 10
    """Features of a layer, chosen on one half of the patients, whose flip AUC is reported on the other."""
    min_flips: int = 10
    """Fewest banked flips on the held-out half from which anything is concluded."""
    sae_dtype: torch.dtype = torch.float32
    """Of the SAEs' matrices; bfloat16 halves their memory."""
    seed: int = 0
    """Seed of the halves, controls and bootstrap."""


@dataclass(frozen=True)
class FindResult:
    """What `find_features` found, and the data behind its figures."""

    artifact: Layers
    """The content of layers.json."""
    features: pd.DataFrame
    """Every feature that ever fires, columns as in `SCREEN_COLUMNS` plus held_out_auc."""
    flips: Flips
    """Every pair of a closed question."""
    top_activations: NDArray[np.float32]
    """[n prompts] activation of the top feature (first row of `artifact.features`) on every wording."""
    prompts: pd.DataFrame
    """The prompt table behind it all; holds question text, never written to a file."""

    def table(self) -> pd.DataFrame:
        """The layer profile as a data frame, one row a layer, estimates without their intervals."""
        rows = [entry.model_dump() for entry in self.artifact.profile]
        return pd.DataFrame([{k: v["value"] if isinstance(v, dict) else v for k, v in row.items()} for row in rows])


def find_features(
    vlm: Vlm,
    sae_of: dict[int, Path],
    questions: Sequence[Question],
    layers: Sequence[int] | None = None,
    settings: FindSettings = FindSettings(),
    split: str = "all",
    batch_tokens: int = 16384,
) -> FindResult:
    """Find the features and the layers that make `vlm` flip on these questions.

    `sae_of` maps layers to SAE folders (see `interp.sae_sources.locate_saes`); `layers` are those to profile, by
    default all that have an SAE; `batch_tokens` bounds a forward pass. Only closed questions with paraphrases
    count. Raises InputError if there are none, or if an SAE does not fit the model.
    """
    chosen = sorted(sae_of) if layers is None else sorted(layers)
    if not chosen or chosen[-1] >= vlm.n_layers:
        raise InputError(f"SAEs for layers {chosen}, but the model has layers 0 to {vlm.n_layers - 1}.")
    for layer in chosen:
        sae_shapes(sae_of[layer], layer, vlm.d_model)
    asked = [q for q in questions if q.closed and q.same_meaning]
    if not asked:
        raise InputError("None of the questions is a yes/no question with paraphrases, so nothing can flip.")
    prompts = prompt_table(asked)
    watched = sorted({place for layer in chosen for place in (layer - 1, layer) if place >= 0})
    measured = measure(vlm, prompts, watched, batch_tokens=batch_tokens, description="margins and residuals")
    after = measured.residuals[:, [watched.index(layer) for layer in chosen]]
    before = measured.residuals[:, [watched.index(max(layer - 1, 0)) for layer in chosen]]
    if chosen[0] == 0:
        before[:, 0] = 0
    flips = find_flips(prompts, pair_table(prompts), measured.margin, settings.bank_margin)
    selecting = select_half(flips, settings.seed)
    choice, held_out = flips.take(selecting), flips.take(~selecting)

    tables, scores, fits = [], [], []
    ids = {}
    for position, layer in enumerate(track(chosen, "screening features")):
        # One SAE is held at a time: all layers of 16k features would take 11 GB.
        sae = load_sae(sae_of[layer], layer, vlm.d_model, vlm.device, settings.sae_dtype)
        ids[layer] = sae.id
        residuals = after[:, position]
        table = screen_layer(sae, residuals, prompts, choice)
        best = table.nlargest(settings.features_a_layer, "flip_auc")
        scores.append(flip_score(sae, residuals, best, held_out) if len(best) else np.zeros(len(held_out.pairs)))
        rebuilt = reconstruct(sae, residuals)
        fits.append((summarize(rebuilt), judge_transfer(rebuilt, prompts["patient"].tolist(), settings.seed)))
        tables.append(table)
    screen = adjust(pd.concat(tables, ignore_index=True))

    banked = held_out.take(held_out.banked)
    patch = patch_layers(vlm, prompts, banked, after, before, chosen, settings.seed, "layer patches")
    profile = _profile(chosen, np.stack(scores, 1), held_out, banked, patch, fits, settings.seed)
    ranges = _ranges(profile, settings.max_width)
    verdict, reason = judge(profile, banked, ranges[settings.rule], settings.min_flips)
    screen = _range_first(screen, ranges[settings.rule])

    def load(layer: int) -> Sae:
        return load_sae(sae_of[layer], layer, vlm.d_model, vlm.device, settings.sae_dtype)

    top = screen.head(FEATURES_KEPT)
    held = _held_out_auc(top, load, after, chosen, held_out)
    screen.insert(list(SCREEN_COLUMNS).index("flip_p") + 1, "held_out_auc", held.reindex(screen.index))
    top_activations = np.zeros(len(after), np.float32)
    if len(top):
        best = load(int(top.at[0, "layer"]))
        feature = torch.tensor([int(top.at[0, "feature"])], device=vlm.device)
        position = chosen.index(best.layer)
        top_activations = best.encode(after[:, position].to(vlm.device), feature)[:, 0].cpu().numpy()
    found = ranges[settings.rule] if verdict == "gate found" else None
    artifact = Layers(
        schema_version=SCHEMA_VERSION,
        verdict=verdict,
        reason=reason,
        layers=found.layers if found else [],
        peak=found.peak if found else None,
        rule=settings.rule,
        ranges=[RangeEntry(rule=rule, **r._asdict()) for rule, r in ranges.items()],
        model=ModelEntry(
            id=vlm.name,
            revision=vlm.revision,
            n_layers=vlm.n_layers,
            d_model=vlm.d_model,
            dtype=str(vlm.model.dtype).removeprefix("torch."),
        ),
        prompt=PromptEntry(**vlm.style._asdict()),
        saes=ids,
        data=_describe(asked, prompts, flips, measured.margin, split, settings.seed),
        profile=profile,
        features=[FeatureEntry(**row) for row in screen.head(FEATURES_KEPT).to_dict("records")],
        warnings=warnings_of(asked, profile),
        settings=settings.__dict__ | {"layers": chosen, "sae_dtype": str(settings.sae_dtype).removeprefix("torch.")},
        seed=settings.seed,
        software=software(),
    )
    return FindResult(artifact, screen, flips, top_activations, prompts)


def select_half(flips: Flips, seed: int) -> NDArray[np.bool_]:
    """Which pairs belong to the half that features are chosen on: half of the patients with and without flips, [n]."""
    flippy = flips.pairs.assign(flipped=flips.banked).groupby("patient")["flipped"].any()
    rng = np.random.default_rng([seed, 7])
    half: set[object] = set()
    for value in (True, False):
        patients = flippy.index[flippy == value].to_numpy(copy=True)
        rng.shuffle(patients)
        half |= set(patients[: (len(patients) + 1) // 2])
    return flips.pairs["patient"].isin(half).to_numpy()


def _profile(
    layers: list[int],
    scores: NDArray[np.float64],
    held_out: Flips,
    banked: Flips,
    patch: LayerPatch,
    fits: list[tuple[Fit, Transfer]],
    seed: int,
) -> list[ProfileEntry]:
    null = shuffled_auc(scores, held_out, seed)
    values = auc(scores, held_out.flipped)
    intervals = _auc_intervals(scores, held_out, seed)
    size = np.abs(patch.shift)
    recovered, control = patch.along_shift(patch.effect), patch.along_shift(patch.control)
    write, write_control = patch.along_shift(patch.write), patch.along_shift(patch.write_control)
    step = np.diff(recovered - control, axis=1, prepend=0)
    patients = banked.pairs["patient"].tolist()

    def share(logits: NDArray[np.float64]) -> Interval:
        return Interval.of(ratio_interval(logits, size, patients, seed, DRAWS))

    return [
        ProfileEntry(
            layer=layer,
            flip_auc=Interval.of(Estimate(values[i], *intervals[:, i])),
            flip_auc_null=null,
            recovery=share(recovered[:, i]),
            control=share(control[:, i]),
            step=share(step[:, i]),
            write=share(write[:, i]),
            write_control=share(write_control[:, i]),
            net_write=share((write - write_control)[:, i]),
            reversals=int(patch.reversed[:, i].sum()),
            r2=Interval.of(fits[i][1].r2),
            transfer=fits[i][1].verdict,
            fvu=fits[i][0].fvu,
            l0=fits[i][0].l0,
        )
        for i, layer in enumerate(layers)
    ]


def _auc_intervals(scores: NDArray[np.float64], flips: Flips, seed: int, draws: int = 300) -> NDArray[np.float64]:
    """95% bootstrap interval over patients of each column's AUC, [2, layers]."""
    if flips.flipped.sum() in (0, len(flips.flipped)):
        return np.full((2, scores.shape[1]), np.nan)
    samples = []
    member, drawn = clusters_drawn(flips.pairs["patient"].tolist(), draws, seed)
    for times in drawn:
        rows = np.repeat(np.arange(len(member)), times[member])
        samples.append(auc(scores[rows], flips.flipped[rows]))
    return np.nanpercentile(np.stack(samples), [2.5, 97.5], axis=0)


def shuffled_auc(scores: NDArray[np.float64], flips: Flips, seed: int, draws: int = 300) -> float | None:
    """95th percentile of the best layer's AUC when flips are shuffled; None without flips.

    Flips come in clusters (a hard question flips on several paraphrases), so the labels, in patient order, are rotated
    as a whole by a random offset, which keeps the clusters.
    """
    n = len(flips.flipped)
    if flips.flipped.sum() in (0, n):
        return None
    order = np.argsort(flips.pairs["patient"].to_numpy(), kind="stable")
    labels, scores = flips.flipped[order], scores[order]
    offsets = np.random.default_rng([seed, 11]).integers(1, n, draws)
    return float(np.percentile([auc(scores, np.roll(labels, k)).max() for k in offsets], 95))


def _ranges(profile: list[ProfileEntry], max_width: int) -> dict[Rule, LayerRange]:
    steps = {p.layer: p.step.value or 0.0 for p in profile}
    writes = {p.layer: p.net_write.value or 0.0 for p in profile}
    aucs = {p.layer: p.flip_auc.value or 0.0 for p in profile}
    return {
        "write": growth_range(writes, max_width=max_width),
        "rise": growth_range(steps, max_width=max_width),
        "level": level_range(aucs, max_width=max_width),
    }


def judge(profile: list[ProfileEntry], banked: Flips, found: LayerRange, min_flips: int) -> tuple[Verdict, str]:
    """The verdict and its reason: a gate is found only if every one of these holds.

    Enough banked flips on the held-out half, from at least five patients; held-out features that tell flips better
    than shuffled labels do, at the best layer; and, somewhere in the range, a write patch whose net recovery has an
    interval above zero.
    """
    flips, patients = len(banked.pairs), banked.pairs["patient"].nunique()
    if flips < min_flips or patients < 5:
        return "no gate found", (
            f"{flips} flips of {patients} patients are large enough to study on the held-out half, "
            f"fewer than the {min_flips} of 5 that are needed"
        )
    best = max(profile, key=lambda p: p.flip_auc.value or 0.0)
    if best.flip_auc_null is None or (best.flip_auc.value or 0.0) <= best.flip_auc_null:
        return "no gate found", (
            f"no layer's features tell held-out flips from other pairs better than shuffled labels "
            f"(best AUC {best.flip_auc.value:.2f} at layer {best.layer}, shuffled {best.flip_auc_null or 0:.2f})"
        )
    rising = [p.layer for p in profile if p.layer in found.layers and (p.net_write.low or 0.0) > 0]
    if not rising:
        return (
            "no gate found",
            f"in layers {found.first}-{found.last} no layer's own addition moves the answer more than its control",
        )
    return "gate found", (
        f"what layer {', '.join(map(str, rising))} adds moves the answer more than random directions do; "
        f"held-out features tell flips at AUC {best.flip_auc.value:.2f} (shuffled {best.flip_auc_null:.2f})"
    )


def warnings_of(asked: Sequence[Question], profile: Sequence[ProfileEntry]) -> list[str]:
    """What a reader of the results has to know: SAEs that do not carry over, wordings that ask for the opposite."""
    failed = [str(p.layer) for p in profile if p.transfer == "fail"]
    unclear = [str(p.layer) for p in profile if p.transfer == "unclear"]
    said = []
    if failed:
        said.append(
            f"the SAEs of layers {', '.join(failed)} explain less than {R2_NEEDED:.0%} of the variance here (p < .05): "
            "what their features say there is a part of the story"
        )
    if unclear:
        layers = ", ".join(unclear)
        said.append(f"whether the SAEs of layers {layers} explain {R2_NEEDED:.0%} is unclear from these data")
    inverted = sum(inverting_operator(q.question, p.text) is not None for q in asked for p in q.same_meaning)
    if inverted:
        said.append(
            f"{inverted} paraphrases seem to ask for the opposite of their question, so their flips may be right "
            "answers; `interp import-questions --format jsonl` sets them apart"
        )
    return said


def _range_first(screen: pd.DataFrame, found: LayerRange) -> pd.DataFrame:
    """The screen with the features of the range in front, else in its order."""
    inside = screen["layer"].isin(found.layers)
    return pd.concat([screen[inside], screen[~inside]], ignore_index=True)


def _held_out_auc(
    top: pd.DataFrame, load: Callable[[int], Sae], residuals: torch.Tensor, layers: list[int], held_out: Flips
) -> "pd.Series[float]":
    """AUC of |delta| for held-out flips of every row of `top`, indexed as it; `load` gives the SAE of a layer."""
    aucs = pd.Series(np.nan, index=top.index)
    for layer, rows in top.groupby("layer"):
        sae = load(int(str(layer)))
        features = torch.from_numpy(rows["feature"].to_numpy(np.int64, copy=True)).to(sae.w_enc.device)
        x = residuals[:, layers.index(sae.layer)].to(sae.w_enc.device)
        f = sae.encode(x, features).cpu().numpy()
        delta = np.abs(f[held_out.pairs["paraphrase"]] - f[held_out.pairs["original"]])
        aucs[rows.index] = auc(delta, held_out.flipped)
    return aucs


def _describe(
    asked: list[Question], prompts: pd.DataFrame, flips: Flips, margin: torch.Tensor, split: str, seed: int
) -> DataEntry:
    by_question = (
        flips.pairs.assign(flipped=flips.flipped).groupby("question").agg({"flipped": "any", "patient": "first"})
    )
    answered = prompts["answer"].notna().to_numpy()
    right = ((margin.numpy() > 0) == (prompts["answer"] == "yes").to_numpy())[answered].astype(float)
    return DataEntry(
        fingerprint=fingerprint(asked),
        split=split,
        questions=len(asked),
        pairs=len(flips.pairs),
        patients=prompts["patient"].nunique(),
        flips=int(flips.flipped.sum()),
        flip_bank=int(flips.banked.sum()),
        question_flip_rate=Interval.of(
            mean_interval(by_question["flipped"].to_numpy(float), by_question["patient"].tolist(), seed, DRAWS)
        ),
        pairwise_flip_rate=Interval.of(
            mean_interval(flips.flipped.astype(float), flips.pairs["patient"].tolist(), seed, DRAWS)
        ),
        accuracy=Interval.of(mean_interval(right, prompts["patient"][answered].tolist(), seed, DRAWS)),
    )
