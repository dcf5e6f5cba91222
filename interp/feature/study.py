"""Everything about one feature: does it move with the margin, does it cause the flips, and what does it respond to?

All numbers are measured on the questions given. A feature that was picked by its score on these same questions looks
better here than it is: pick it on other patients (`interp find-features` uses the train split).
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import Field, InstanceOf
from torch import Tensor

from interp.causal.feature_patching import apply_feature_patch, feature_patches
from interp.causal.layer_patching import PatchTarget, rerun_paraphrases
from interp.feature.register_grid import grid_findings, grid_prompts, named_finding, read_grid, study_grid
from interp.feature.weights import direct_effect, margin_slope, nearest_neighbours
from interp.measurement.margins import measure
from interp.measurement.residual_store import Residuals
from interp.model.vlm import Vlm
from interp.questions.schema import Question
from interp.questions.tables import fingerprint, pair_table, prompt_table
from interp.runtime.errors import InputError
from interp.saes.neuronpedia import neuronpedia_address
from interp.saes.sae import Sae, encode_features
from interp.schemas.layers import DOSES, PromptEntry
from interp.schemas.record import interval_of
from interp.schemas.study import FeatureTestEntry, GroupRecovery, Study, Tracking
from interp.screening.feature_stats import adjust, feature_delta, screen_layer
from interp.screening.flips import Flips, find_flips, questions_that_can_flip, sample_pairs, sides
from interp.screening.sae_inputs import SaeInputs
from interp.statistics import MIN_PATIENTS, auc, correlation, ratio_interval, resampled
from interp.storage.json_files import json_ready, significant
from interp.storage.provenance import provenance, software
from interp.views.notebook import overview_html, plotted
from interp.views.tables.feature import study_overview

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BANK_MARGIN = 0.25
"""Least |m| [logits] on both sides of a banked flip, as in `interp.search.find.FindSettings`."""


class FeatureStudy(Study):
    """What `study_feature` measured: the content of study.json, and what its figures are drawn from.

    Numbers have six significant digits and are None where they are undefined, as in study.json. `flips` holds patients;
    nothing holds a question's text.
    """

    cells: InstanceOf[pd.DataFrame] = Field(
        exclude=True,
        description="one row per level, frame and finding of the grid: level, frame, finding, prompts, mean_activation",
    )
    delta: InstanceOf[NDArray[np.float64]] = Field(exclude=True, description="[pairs] f(p) - f(q) [activation units]")
    flips: InstanceOf[Flips] = Field(exclude=True, description="the pairs of `delta`")

    def plot_margin(self, ax: "Axes | None" = None) -> "Axes":
        """Draw delta against margin shift, a point a pair; as every `plot_` of `interp.search.find.FindResult`."""
        from interp.views.figures.margin import delta_against_margin

        return plotted(delta_against_margin, self.deltas(), ax)

    def deltas(self) -> pd.DataFrame:
        """The feature's delta and the margin shift of every pair (`interp.views.figures.margin.delta_frame`)."""
        from interp.views.figures.margin import delta_frame

        shift = self.flips.margin_after - self.flips.margin_before
        return delta_frame(self.layer, self.feature, self.delta, shift, self.flips.flipped)

    def plot_dose(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the recovery by dose of the patch, with its controls. Raises InputError without a causal test."""
        from interp.views.figures.feature_study import dose_frame, recovery_by_dose

        return plotted(recovery_by_dose, dose_frame(self._tested()), ax)

    def plot_groups(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the recovery by finding, phenomenon and registers. Raises InputError without a causal test."""
        from interp.views.figures.feature_study import group_frame, recovery_by_group

        content = self._tested()
        draw = partial(recovery_by_group, whole=content["test"]["recovery"]["value"])
        return plotted(draw, group_frame(content), ax)

    def plot_grid(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the activation by level of the register grid."""
        from interp.views.figures.feature_study import activation_by_level, level_frame

        return plotted(activation_by_level, level_frame(self.model_dump(), self.cells), ax)

    def _tested(self) -> dict[str, Any]:
        if self.test is None:
            raise InputError("Without banked flips there is no causal test to draw; `notes` says why.")
        return self.model_dump()

    def __repr__(self) -> str:
        return f"<FeatureStudy of {self.layer}:{self.feature} in {self.sae}, {self.model}>"

    def _repr_html_(self) -> str:
        return overview_html(study_overview(self))


def study_feature(
    vlm: Vlm,
    sae: Sae,
    questions: Sequence[Question],
    feature: int,
    grid: pd.DataFrame | None = None,
    source: str = "",
    seed: int = 0,
) -> FeatureStudy:
    """Study one feature of `sae` on the closed questions that have paraphrases.

    `grid` as of `interp.feature.register_grid.read_grid`, by default the shipped one; `source` is where the SAE was
    asked from,
    from which its Neuronpedia page is known. Raises InputError if the feature is not in the SAE, the SAE's layer not in
    the model, or nothing can flip. What can not be computed is NaN or None, and `notes` says why.
    """
    if not 0 <= feature < sae.d_sae:
        raise InputError(
            f"{sae.layer}:{feature}: the SAE {sae.id} has the features 0 to {sae.d_sae - 1}. Give one of them."
        )
    if sae.layer >= vlm.n_layers:
        raise InputError(f"{sae.layer}:{feature}: the model {vlm.name} has the layers 0 to {vlm.n_layers - 1}.")
    asked = questions_that_can_flip(questions)
    prompts = prompt_table(asked)
    watched = sorted({sae.layer, vlm.n_layers - 1})
    measured = measure(vlm, prompts, watched, description="margins and residuals")
    residuals = Residuals(watched, measured.residuals.transpose(0, 1))
    here = residuals.after(sae.layer)
    flips = find_flips(prompts, pair_table(prompts), measured.margin, BANK_MARGIN)
    banked = flips.take(flips.banked)
    delta = feature_delta(sae, here, flips.pairs, torch.tensor([feature]))[:, 0].double().numpy()
    test, groups = None, list[GroupRecovery]()
    if len(banked.pairs):
        screen = adjust(screen_layer(sae, here, prompts, flips))
        unflipped = sample_pairs(flips.take(~flips.flipped), len(banked.pairs), seed)
        bank, stable = (PatchTarget(each, rerun_paraphrases(vlm, prompts, each)) for each in (banked, unflipped))
        inputs = SaeInputs(lambda _: sae, residuals)
        (patch,) = feature_patches([(sae.layer, feature)], banked, unflipped, inputs, screen)
        test = apply_feature_patch(patch, bank, stable, seed)
        groups = recovery_by_group(bank, sae, feature, prompts, delta[flips.banked], seed)
    wordings = [q.question for q in asked]
    grid_table = grid_prompts(read_grid() if grid is None else grid, grid_findings(wordings), prompts, seed)
    grid_found, cells = study_grid(vlm, sae, feature, grid_table, seed)
    study = FeatureStudy(
        model=vlm.name,
        revision=vlm.revision,
        prompt=PromptEntry(**vlm.style._asdict()),
        sae=sae.id,
        layer=sae.layer,
        feature=feature,
        d_sae=sae.d_sae,
        fingerprint=fingerprint(asked),
        questions=len(asked),
        patients=prompts["patient"].nunique(),
        density=significant(_density(sae, here, feature)),
        tracking=track_margin(sae, here, feature, flips, delta, seed),
        test=None if test is None else FeatureTestEntry.model_validate(json_ready(test)),
        doses=list(DOSES),
        groups=groups,
        grid=grid_found,
        neighbours=nearest_neighbours(sae, feature),
        direct_effect=significant(direct_effect(vlm, sae, feature, measured.residuals[:, -1])),
        margin_slope=significant(margin_slope(vlm, sae, feature, measured.residuals[:, -1])),
        neuronpedia=neuronpedia_address(source, sae.id, feature),
        notes=[],
        seed=seed,
        software=software(),
        provenance=provenance(),
        cells=cells,
        delta=delta,
        flips=flips,
    )
    study.notes.extend(_notes(study, wordings))
    return study


def track_margin(
    sae: Sae, residuals: Tensor, feature: int, flips: Flips, delta: NDArray[np.float64], seed: int
) -> Tracking:
    """Delta against margin shift; `residuals` [n prompts, d_model], `delta` [pairs]. Intervals resample patients."""
    patients = flips.pairs["patient"].tolist()
    shift, size = flips.margin_after - flips.margin_before, np.abs(delta)
    return Tracking(
        pairs=len(delta),
        flips=int(flips.flipped.sum()),
        r=interval_of(resampled(lambda rows: correlation(delta[rows], shift[rows]), patients, seed)),
        flip_auc=interval_of(resampled(lambda rows: float(auc(size[rows], flips.flipped[rows])[0]), patients, seed)),
        largest=largest_among_flips(sae, residuals, feature, flips),
    )


def largest_among_flips(sae: Sae, residuals: Tensor, feature: int, flips: Flips) -> int:
    """Flips in which no feature of the SAE has a larger |delta| than `feature`; `residuals` [n prompts, d_model]."""
    device = sae.w_enc.device
    columns = sides(flips.pairs[flips.flipped])
    count = 0
    for part in torch.arange(len(columns[0])).split(128):
        before, after = (sae.encode(residuals[column[part]].to(device)) for column in columns)
        size = (after - before).abs()
        count += int(((size[:, feature] > 0) & (size[:, feature] >= size.amax(1))).sum())
    return count


def recovery_by_group(
    bank: PatchTarget, sae: Sae, feature: int, prompts: pd.DataFrame, delta: NDArray[np.float64], seed: int
) -> list[GroupRecovery]:
    """Recovery by the feature patch on the banked flips of every finding, phenomenon and registers; `delta` [flips]."""
    direction = sae.w_dec[feature].float().cpu()
    patch = -torch.from_numpy(delta).float()[:, None, None] * direction
    effect = bank.effect([sae.layer], patch, "recovery by group")[:, 0]
    towards, size = effect * np.sign(bank.shift), np.abs(bank.shift)
    pairs = bank.flips.pairs
    patients = pairs["patient"].to_numpy()
    originals = prompts["text"].to_numpy()[pairs["original"]]
    groupings = {
        "finding": np.array([named_finding(text) for text in originals], object),
        "phenomenon": pairs["phenomenon"].to_numpy(object),
        "registers": pairs["registers"].fillna("untagged").to_numpy(object),
    }
    found = []
    for grouping, member in groupings.items():
        for group, count in pd.Series(member).value_counts().items():
            rows = member == group
            recovery = ratio_interval(towards[rows], size[rows], patients[rows].tolist(), seed)
            found.append(
                GroupRecovery(
                    grouping=grouping,
                    group=str(group),
                    pairs=int(count),
                    patients=len(set(patients[rows])),
                    shift=significant(float(size[rows].sum())),
                    recovery=interval_of(recovery),
                )
            )
    return found


def parse_feature(written: str) -> tuple[int, int]:
    """Layer and feature of LAYER:FEATURE. Raises InputError for anything else."""
    match = re.fullmatch(r"(\d{1,4}):(\d{1,9})", written.strip(), re.ASCII)
    if match is None:
        raise InputError(f"{written!r}: found no feature, expected LAYER:FEATURE as 17:3818.")
    return int(match[1]), int(match[2])


def folder_of(sae_of: Mapping[int, Path], layer: int, source: str) -> Path:
    """The SAE folder of a layer. Raises InputError naming the layers that have one."""
    if layer not in sae_of:
        known = ", ".join(map(str, sorted(sae_of))) or "none"
        raise InputError(f"{source}: found SAEs of the layers {known}, expected one of layer {layer}.")
    return sae_of[layer]


def _density(sae: Sae, residuals: Tensor, feature: int) -> float:
    return float((encode_features(sae, residuals, torch.tensor([feature])) > 0).float().mean())


def _notes(study: FeatureStudy, wordings: Sequence[str]) -> list[str]:
    """A sentence on every number of the study that is undefined."""
    said = []
    if study.density == 0:
        said.append("The feature is active on none of the wordings, so it moves with nothing and its patch is empty.")
    elif study.tracking.r.value is None:
        said.append("The feature's delta or the margin shift never varies, so r is undefined.")
    if not study.tracking.flips:
        said.append("No pair flips, so there is no flip AUC, no causal test and no recovery by group.")
    elif study.test is None:
        said.append(
            f"None of the {study.tracking.flips} flips has both margins at least {BANK_MARGIN} logits from zero, so "
            "there is no causal test and no recovery by group."
        )
    elif study.test.matched is None:
        said.append("No other feature of the layer moves without telling flips, so there are no matched features.")
    if study.test is not None and study.test.unflipped_changed is None:
        said.append("Every pair flips, so the patch can not be tried on pairs that do not.")
    untagged = {g.grouping for g in study.groups if g.group in ("other", "untagged")}
    tagged = {g.grouping for g in study.groups if g.group not in ("other", "untagged")}
    for grouping in sorted(untagged - tagged):
        reason = "names a finding of the lexicon" if grouping == "finding" else f"has {grouping} tagged"
        said.append(f"None of the banked flips {reason}, so recovery by {grouping} is that of the whole.")
    if any(g.patients < MIN_PATIENTS for g in study.groups):
        said.append(f"What comes from fewer than {MIN_PATIENTS} patients has no interval.")
    if all(named_finding(text) == "other" for text in wordings):
        said.append("No question names a finding of the lexicon, so the grid asks for common ones.")
    if study.grid.spearman.value is None:
        said.append("The feature's activation never varies on the register grid, so its rank correlation is undefined.")
    if not study.grid.controlled_pairs:
        said.append("No two wordings of the grid of different level end alike, so there are no token-controlled pairs.")
    return said
