"""Everything about one feature: does it move with the margin, does it cause the flips, and what does it respond to?

All numbers are measured on the questions given. A feature that was picked by its score on these same questions looks
better here than it is: pick it on other patients (`interp find-features` uses the train split).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp.causal.feature_patching import FeatureTest, probe_features, sample_pairs
from interp.causal.layer_patching import patch_effect, replay_of
from interp.feature.register_grid import GridResult, grid_findings, grid_prompts, named_finding, read_grid, study_grid
from interp.feature.weights import Neighbour, direct_effect, margin_slope, nearest_neighbours
from interp.measurement.margins import measure
from interp.measurement.residual_store import Residuals
from interp.measurement.suffix_rerun import SuffixRerun
from interp.model.prompts import PromptStyle
from interp.model.vlm import Vlm
from interp.questions.schema import Question
from interp.questions.tables import fingerprint, pair_table, prompt_table
from interp.runtime.errors import InputError
from interp.saes.neuronpedia import neuronpedia_address
from interp.saes.sae import Sae, encode_features
from interp.screening.feature_stats import adjust, feature_delta, screen_layer
from interp.screening.flips import Flips, find_flips, sides
from interp.statistics import MIN_PATIENTS, Estimate, auc, correlation, ratio_interval, resampled
from interp.views.notebook import plotted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BANK_MARGIN = 0.25
"""Least |m| [logits] on both sides of a banked flip, as in `interp.search.find.FindSettings`."""


class Tracking(NamedTuple):
    """How the feature's delta goes with the margin shift m(p) - m(q), over all closed pairs."""

    pairs: int
    """Pairs of closed questions."""
    flips: int
    """Pairs that flip."""
    r: Estimate
    """Pearson r of delta and margin shift; NaN where the delta never varies."""
    flip_auc: Estimate
    """AUC of |delta| for flipped against other pairs; NaN without flips."""
    largest: int
    """Flips in which no feature of the layer has a larger |delta| [activation units]."""


class GroupRecovery(NamedTuple):
    """Recovery of the banked flips of one group."""

    grouping: str
    """finding, phenomenon or registers (original-paraphrase)."""
    group: str
    """Its name; "other" or "untagged" where the wording names no finding or has no tag."""
    pairs: int
    """Banked flips."""
    patients: int
    """Patients that they come from."""
    shift: float
    """Sum of |margin shift| over them [logits], the weight of the group in the whole recovery."""
    recovery: Estimate
    """Recovered share of the margin shift; no interval for fewer than MIN_PATIENTS patients."""


@dataclass(frozen=True, eq=False)
class FeatureStudy:
    """What `study_feature` measured; nothing in it but `flips` holds a patient, nothing a question's text."""

    model: str
    """Hub id, or folder name."""
    revision: str | None
    """Commit of the hub repository, None for a local folder."""
    prompt: PromptStyle
    """How the questions were put."""
    sae: str
    """Folder name of the SAE."""
    layer: int
    """Decoder layer."""
    feature: int
    """Index into the SAE."""
    d_sae: int
    """Number of features of the SAE."""
    fingerprint: str
    """Hash of the questions."""
    questions: int
    """Closed questions with paraphrases."""
    patients: int
    """Patients (images where none are given)."""
    density: float
    """Share of the wordings on which the feature is active."""
    tracking: Tracking
    """Delta against margin shift."""
    test: FeatureTest | None
    """The causal test on all banked flips; None without any."""
    groups: list[GroupRecovery]
    """Recovery by finding, phenomenon and registers; largest groups first."""
    grid: GridResult
    """The register grid."""
    neighbours: list[Neighbour]
    """Nearest decoder neighbours, nearest first."""
    direct_effect: float
    """What one activation unit adds to the margin by the output layer alone (see `direct_effect`) [logits]."""
    margin_slope: float
    """Slope of the margin along the decoder row at the last layer, mean over the wordings [logits a unit]."""
    neuronpedia: str | None
    """Address of the feature's page, None where there is none."""
    notes: list[str]
    """A sentence on every number that could not be had."""
    delta: NDArray[np.float64]
    """[pairs] f(p) - f(q), for the figure."""
    flips: Flips
    """The pairs behind `delta`."""
    seed: int
    """Of controls, grid images and intervals."""

    def plot_margin(self, ax: "Axes | None" = None) -> "Axes":
        """Draw delta against margin shift, a point a pair; as every `plot_` of `interp.search.find.FindResult`."""
        from interp.views.figures.margin import delta_against_margin, delta_frame

        return plotted(delta_against_margin, delta_frame(self.layer, self.feature, self.delta, self.flips), ax)

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
        from interp.feature.save import study_json
        from interp.views.figures.feature_study import activation_by_level, level_frame

        return plotted(activation_by_level, level_frame(study_json(self), self.grid.cells), ax)

    def _tested(self) -> dict[str, Any]:
        from interp.feature.save import study_json

        if self.test is None:
            raise InputError("Without banked flips there is no causal test to draw; `notes` says why.")
        return study_json(self)

    def __repr__(self) -> str:
        return f"<FeatureStudy of {self.layer}:{self.feature} in {self.sae}, {self.model}>"

    def _repr_html_(self) -> str:
        from interp.views.terminal.feature import study_html

        return study_html(self)


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
    asked = [q for q in questions if q.closed and q.same_meaning]
    if not asked:
        raise InputError("None of the questions is a yes/no question with paraphrases, so nothing can flip.")
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
        where = [(sae.layer, feature)]
        replay, other = replay_of(vlm, prompts, banked), replay_of(vlm, prompts, unflipped)
        (test,) = probe_features(replay, banked, other, unflipped, residuals, screen, where, lambda _: sae, seed)
        groups = recovery_by_group(replay, sae, feature, prompts, banked, delta[flips.banked], seed)
    wordings = [q.question for q in asked]
    grid_table = grid_prompts(read_grid() if grid is None else grid, grid_findings(wordings), prompts, seed)
    study = FeatureStudy(
        model=vlm.name,
        revision=vlm.revision,
        prompt=vlm.style,
        sae=sae.id,
        layer=sae.layer,
        feature=feature,
        d_sae=sae.d_sae,
        fingerprint=fingerprint(asked),
        questions=len(asked),
        patients=prompts["patient"].nunique(),
        density=_firing_rate(sae, here, feature),
        tracking=track_margin(sae, here, feature, flips, delta, seed),
        test=test,
        groups=groups,
        grid=study_grid(vlm, sae, feature, grid_table, seed),
        neighbours=nearest_neighbours(sae, feature),
        direct_effect=direct_effect(vlm, sae, feature, measured.residuals[:, -1]),
        margin_slope=margin_slope(vlm, sae, feature, measured.residuals[:, -1]),
        neuronpedia=neuronpedia_address(source, sae.id, feature),
        notes=[],
        delta=delta,
        flips=flips,
        seed=seed,
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
        r=resampled(lambda rows: correlation(delta[rows], shift[rows]), patients, seed),
        flip_auc=resampled(lambda rows: float(auc(size[rows], flips.flipped[rows])[0]), patients, seed),
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
    replay: SuffixRerun,
    sae: Sae,
    feature: int,
    prompts: pd.DataFrame,
    banked: Flips,
    delta: NDArray[np.float64],
    seed: int,
) -> list[GroupRecovery]:
    """Recovery of the delta patch on the banked flips of every finding, phenomenon and registers; `delta` [flips]."""
    direction = sae.w_dec[feature].float().cpu()
    patch = -torch.from_numpy(delta).float()[:, None, None] * direction
    effect = patch_effect(replay, banked, [sae.layer], patch, "recovery by group")[:, 0]
    shift = banked.margin_before - banked.margin_after
    towards, size = effect * np.sign(shift), np.abs(shift)
    patients = banked.pairs["patient"].to_numpy()
    originals = prompts["text"].to_numpy()[banked.pairs["original"]]
    groupings = {
        "finding": np.array([named_finding(text) for text in originals], object),
        "phenomenon": banked.pairs["phenomenon"].to_numpy(object),
        "registers": banked.pairs["registers"].fillna("untagged").to_numpy(object),
    }
    found = []
    for grouping, member in groupings.items():
        for group, count in pd.Series(member).value_counts().items():
            rows = member == group
            recovery = ratio_interval(towards[rows], size[rows], patients[rows].tolist(), seed)
            whose = len(set(patients[rows]))
            found.append(GroupRecovery(grouping, str(group), int(count), whose, float(size[rows].sum()), recovery))
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


def _firing_rate(sae: Sae, residuals: Tensor, feature: int) -> float:
    return float((encode_features(sae, residuals, torch.tensor([feature])) > 0).float().mean())


def _notes(study: FeatureStudy, wordings: Sequence[str]) -> list[str]:
    """A sentence on every number of the study that is undefined."""
    said = []
    if study.density == 0:
        said.append("The feature is active on none of the wordings, so it moves with nothing and its patch is empty.")
    elif np.isnan(study.tracking.r.value):
        said.append("The feature's delta or the margin shift never varies, so r is undefined.")
    if not study.tracking.flips:
        said.append("No pair flips, so there is no flip AUC, no causal test and no recovery by group.")
    elif study.test is None:
        said.append(
            f"None of the {study.tracking.flips} flips has both margins at least {BANK_MARGIN} logits from zero, so "
            "there is no causal test and no recovery by group."
        )
    elif np.isnan(study.test.matched):
        said.append("No other feature of the layer moves without telling flips, so there are no matched features.")
    if study.test is not None and np.isnan(study.test.unflipped_changed):
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
    if np.isnan(study.grid.spearman.value):
        said.append("The feature's activation never varies on the register grid, so its rank correlation is undefined.")
    if not study.grid.controlled_pairs:
        said.append("No two wordings of the grid of different level end alike, so there are no token-controlled pairs.")
    return said
