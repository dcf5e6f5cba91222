"""Everything about one feature: does it follow the margin, does it cause the flips, and what does it respond to?

All numbers are measured on the questions given. A feature that was picked by its score on these same questions looks
better than it is. Pick it on other patients: `interp find-features` uses the train split.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import Field, InstanceOf
from torch import Tensor

from interp.causal.feature_patching import apply_feature_patches, feature_patches
from interp.causal.layer_patching import PatchTarget, rerun_paraphrases
from interp.causal.mediation import falls_by_layer
from interp.causal.sae_error import PARTS, split_shift
from interp.causal.vector_patching import patch_vectors
from interp.feature.clamping import clamp_feature
from interp.feature.content import activating_wordings, feature_content
from interp.feature.edges import find_edges, find_token_edges
from interp.feature.groups import recovery_by_group
from interp.feature.notes import missing_numbers
from interp.feature.pages import nearest_page
from interp.feature.pair_effects import pair_effects
from interp.feature.register_grid import grid_findings, grid_prompts, read_grid, study_grid
from interp.feature.tracking import track_margin
from interp.feature.weights import direct_effect, margin_slope, nearest_neighbours
from interp.feature.writes import layer_writes
from interp.measurement.margins import measure
from interp.measurement.residual_store import Residuals
from interp.model.vlm import Vlm
from interp.profile.places import layers_that_mediate, place_of, writing_layers
from interp.profile.verdict import LEAST_PATIENTS
from interp.questions.files import given_questions
from interp.questions.schema import Question
from interp.questions.tables import fingerprint, pair_table, prompt_table
from interp.runtime.arguments import expect
from interp.runtime.errors import InputError
from interp.saes.feature_id import parse_feature
from interp.saes.locate import given_saes, sae_of_layer
from interp.saes.neuronpedia import neuronpedia_address
from interp.saes.sae import Sae, encode_features, load_sae
from interp.saes.source import sae_source
from interp.saes.sparse_codes import Codes, differences, encode_sparse
from interp.schemas.layers import PromptEntry
from interp.schemas.rules import LEAST_FLIPS
from interp.schemas.study import (
    FeatureTestEntry,
    GroupRecovery,
    LayerFallEntry,
    LayerWrite,
    PairEffects,
    Relative,
    ResidualParts,
    Study,
)
from interp.schemas.tested_features import DOSES, FAMILY_MEDIATED, Place
from interp.schemas.vector_patch import VectorPatchEntry
from interp.screening.families import find_relatives
from interp.screening.feature_stats import ScreenedPairs, adjust, feature_delta, joint_feature_patch, screen_layer
from interp.screening.flips import Flips, find_flips, questions_that_can_flip, sample_pairs, sides
from interp.screening.sae_inputs import SaeInputs
from interp.storage.json_files import json_ready, significant
from interp.storage.provenance import provenance, software

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BANK_MARGIN = 0.25
"""Least |m| [logits] on both sides of a banked flip, as in `interp.search.settings.FindSettings`."""


class FeatureStudy(Study):
    """What `study_feature` measured: the content of study.json, and the data of its figures.

        >>> study.test.recovery.value > study.test.random  # the feature patch and its control
        True
        >>> axes = study.plot_dose()

    Numbers have six significant digits and are None where they are undefined, as in study.json. `flips` names patients;
    of question text only `wordings` holds some.
    """

    cells: InstanceOf[pd.DataFrame] = Field(
        exclude=True,
        description="one row per level, frame and finding of the grid: level, frame, finding, prompts, mean_activation",
    )
    delta: InstanceOf[np.ndarray] = Field(exclude=True, description="[pairs] f(p) - f(q) [activation units]")
    flips: InstanceOf[Flips] = Field(exclude=True, description="the pairs of `delta`")
    wordings: InstanceOf[pd.DataFrame] = Field(
        exclude=True,
        repr=False,
        description="the wordings that activate the feature most and least (interp.feature.content); question text",
    )

    @property
    def shows_text(self) -> bool:
        """Whether wordings may be shown without being asked for: those of the embedded world."""
        return self.content is not None and self.content.synthetic

    def deltas(self) -> pd.DataFrame:
        """The feature's delta and the margin shift of every pair (`interp.views.figures.margin.delta_frame`)."""
        from interp.views.figures.margin import delta_frame

        shift = self.flips.margin_after - self.flips.margin_before
        return delta_frame(self.layer, self.feature, self.delta, shift, self.flips.flipped)

    def plot_margin(self, ax: "Axes | None" = None) -> "Axes":
        """Draw delta against margin shift, one point per pair.

        `ax` is drawn into without pyplot; by default, pyplot shows a new figure. This holds for every `plot_` method.
        """
        from interp.views.figures.margin import delta_against_margin
        from interp.views.notebook import plotted

        return plotted(delta_against_margin, self.deltas(), ax)

    def plot_dose(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the recovery by dose of the patch, with its controls. Raises InputError without a causal test."""
        from interp.views.figures.feature_study import dose_frame, recovery_by_dose
        from interp.views.notebook import plotted

        return plotted(recovery_by_dose, dose_frame(self._tested()), ax)

    def plot_groups(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the recovery by finding, phenomenon and registers. Raises InputError without a causal test."""
        from interp.views.figures.feature_study import group_frame, recovery_by_group
        from interp.views.notebook import plotted

        content = self._tested()
        draw = partial(recovery_by_group, whole=content["test"]["recovery"]["value"])
        return plotted(draw, group_frame(content), ax)

    def plot_grid(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the activation by level of the register grid."""
        from interp.views.figures.feature_study import activation_by_level, level_frame
        from interp.views.notebook import plotted

        return plotted(activation_by_level, level_frame(self.model_dump(), self.cells), ax)

    def _tested(self) -> dict[str, Any]:
        if self.test is None:
            raise InputError("Without banked flips there is no causal test to draw; `notes` says why.")
        return self.model_dump()

    def __repr__(self) -> str:
        return f"<FeatureStudy of {self.layer}:{self.feature} in {self.sae}, {self.model}>"

    def _repr_html_(self) -> str:
        from interp.views.notebook import overview_html
        from interp.views.tables.feature import study_overview

        return overview_html(study_overview(self))


def study_feature(
    vlm: Vlm,
    sae: Sae | Mapping[int, Path] | str | Path,
    questions: Sequence[Question] | str | Path,
    feature: int | str,
    grid: pd.DataFrame | None = None,
    source: str = "",
    seed: int = 0,
    folder: str | Path | None = None,
    sae_of: Mapping[int, Path] | None = None,
) -> FeatureStudy:
    """Study one feature of `sae` on the yes/no questions that have paraphrases.

        >>> study = interp.study_feature(vlm, interp.WORLD / "saes", questions[:80], "6:156")
        >>> study
        <FeatureStudy of 6:156 in layer_6_width_512_l0_small, planted>

    `sae` is a loaded SAE and `feature` its number, or `sae` is a source of SAEs as for `find_features` and `feature` is
    LAYER:FEATURE. `questions` are loaded ones or a JSON Lines file. `grid` is a register grid
    (`interp.feature.register_grid.read_grid`), by default the shipped one. `source` is the source of the SAE as for
    `interp.saes.locate.locate_saes`, which tells the feature's page on Neuronpedia. `folder` is the one that the SAE
    was loaded from: it tells the page too, and lets the nearest feature with a page be found for one without. With
    `sae_of`, layer -> SAE folder, the features of other layers before and after it are sought. Numbers that cannot be
    computed are None, and `notes` says why.

    Raises InputError for an argument of a wrong type, if the SAE has no such feature, the model no such layer, if
    `sae_of` has no other layer of the model, or if no question can flip.
    """
    expect("vlm", vlm, Vlm)
    if isinstance(sae, Mapping | str | Path):
        layer, feature = parse_feature(str(feature))
        folder = sae_of_layer(given_saes(sae, [layer]), layer, "sae")
        source = source or ("" if isinstance(sae, Mapping) else str(sae))
        sae = load_sae(folder, layer, vlm.d_model, vlm.device)
    folder = None if folder is None else Path(folder)
    expect("sae", sae, Sae)
    questions = given_questions(questions)
    if isinstance(feature, bool) or not isinstance(feature, Integral):
        raise InputError(f"feature is {feature!r}, expected the number of a feature of `sae`, as 110.")
    feature = int(feature)
    _check_feature(vlm, sae, feature)
    if sae_of is not None:
        _check_other_layers(vlm, sae, sae_of)
    asked = questions_that_can_flip(questions)
    observed = _observe(vlm, sae, feature, prompt_table(asked))
    prompts, flips, delta = observed.prompts, observed.flips, observed.delta
    here, last = observed.residuals.after(sae.layer), observed.residuals.after(vlm.n_layers - 1)
    relatives = find_relatives(sae, observed.codes, observed.changes, feature)
    patched = _patch(vlm, sae, feature, observed, relatives, seed)
    banked = flips.take(flips.banked)
    activation = encode_features(sae, here, torch.tensor([feature]))
    wordings = [q.question for q in asked]
    grid_table = grid_prompts(read_grid() if grid is None else grid, grid_findings(wordings), prompts, seed)
    grid_found, cells = study_grid(vlm, sae, feature, grid_table, seed)
    entry = None if folder is None else sae_source(sae.layer, folder)
    page = neuronpedia_address((entry and entry.release) or source, sae.id, feature)
    activations = activation[:, 0].double().numpy()
    content = feature_content(vlm, sae, feature, prompts, activations, last, entry, seed)
    if page is None and entry is not None and folder is not None:
        content.nearest_page = nearest_page(sae, feature, entry, folder)
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
        density=significant(float((activation > 0).float().mean())),
        tracking=track_margin(sae, here, feature, flips, delta, seed),
        **patched._asdict(),
        family=relatives,
        edges=[] if sae_of is None else find_edges(vlm, prompts, banked, sae_of, sae, feature, seed),
        token_edges=[] if sae_of is None else find_token_edges(vlm, prompts, banked, sae, feature, seed),
        clamp=clamp_feature(vlm, sae, feature, prompts, observed.margin, seed),
        doses=list(DOSES),
        grid=grid_found,
        neighbours=nearest_neighbours(sae, feature),
        direct_effect=significant(direct_effect(vlm, sae, feature, last)),
        margin_slope=significant(margin_slope(vlm, sae, feature, last)),
        neuronpedia=page,
        content=content,
        notes=[],
        seed=seed,
        software=software(),
        provenance=provenance(),
        cells=cells,
        delta=delta,
        flips=flips,
        wordings=activating_wordings(prompts, activations),
    )
    changing = banked.pairs["patient"][delta[flips.banked] != 0].tolist()
    study.notes.extend(missing_numbers(study, wordings, BANK_MARGIN, None if sae_of is None else changing))
    return study


class _Observed(NamedTuple):
    """What the feature does on all wordings."""

    prompts: pd.DataFrame
    """The prompt table."""
    residuals: Residuals
    """Final-token residuals after the SAE's layer and after the last one."""
    flips: Flips
    """All pairs."""
    delta: NDArray[np.float64]
    """[pairs]: f(p) - f(q) [activation units]."""
    codes: Codes
    """[n prompts, d_sae]: activations of all features."""
    changes: Codes
    """[pairs, d_sae]: their differences over the pairs."""
    margin: Tensor
    """float32 [n prompts]: answer margin [logits]."""


class _Patched(NamedTuple):
    """What patches of the banked flips show, as fields of `Study`; the defaults stand where no flip is banked."""

    test: FeatureTestEntry | None = None
    """The feature patch."""
    pair_effects: PairEffects | None = None
    """The feature patch pair by pair."""
    groups: Sequence[GroupRecovery] = ()
    """Recovery by group."""
    place: Place | None = None
    """Cause, mediator, contributor, echo or bystander; None with too few flips."""
    writes: Sequence[LayerWrite] = ()
    """Direct effect of every layer."""
    writing_layers: Sequence[int] = ()
    """Layers that write the answer."""
    mediation: Sequence[LayerFallEntry] = ()
    """What each later layer makes of the feature's change."""
    mediating_layers: Sequence[int] = ()
    """Layers through which it acts."""
    parts: ResidualParts | None = None
    """The residual's change, split by the SAE."""
    family_patch: VectorPatchEntry | None = None
    """Joint patch of the feature and its family."""
    family_place: Place | None = None
    """The place of the feature and its family as one."""


def _check_feature(vlm: Vlm, sae: Sae, feature: int) -> None:
    if not 0 <= feature < sae.d_sae:
        raise InputError(
            f"{sae.layer}:{feature}: the SAE {sae.id} has the features 0 to {sae.d_sae - 1}. Give one of them."
        )
    if sae.layer >= vlm.n_layers:
        raise InputError(f"{sae.layer}:{feature}: the model {vlm.name} has the layers 0 to {vlm.n_layers - 1}.")


def _check_other_layers(vlm: Vlm, sae: Sae, sae_of: Mapping[int, Path]) -> None:
    if set(sae_of) & set(range(vlm.n_layers)) <= {sae.layer}:
        raise InputError(
            f"--edges: found SAEs of no layer of {vlm.name} but {sae.layer}, expected those of others too, to whose "
            "features edges lead. Give --saes a source that has them, or leave --edges out."
        )


def _observe(vlm: Vlm, sae: Sae, feature: int, prompts: pd.DataFrame) -> _Observed:
    layers = sorted({sae.layer, vlm.n_layers - 1})
    measured = measure(vlm, prompts, layers, description="margins and residuals")
    residuals = Residuals(layers, measured.residuals.transpose(0, 1))
    flips = find_flips(prompts, pair_table(prompts), measured.margin, BANK_MARGIN)
    here = residuals.after(sae.layer)
    delta = feature_delta(sae, here, flips.pairs, torch.tensor([feature]))[:, 0].double().numpy()
    activations = encode_sparse(sae, here)
    changes = differences(activations, *sides(flips.pairs))
    return _Observed(prompts, residuals, flips, delta, activations.by_feature, changes, measured.margin)


def _patch(vlm: Vlm, sae: Sae, feature: int, observed: _Observed, relatives: Sequence[Relative], seed: int) -> _Patched:
    """Patch the banked flips: by the feature with its controls, layer by layer, and by the parts of the residual."""
    prompts, residuals, flips, delta, codes, changes, _ = observed
    banked = flips.take(flips.banked)
    if not len(banked.pairs):
        return _Patched()
    here = residuals.after(sae.layer)
    screen = adjust(screen_layer(sae.layer, codes, changes, ScreenedPairs.of(prompts, flips, codes.value.device)))
    stable = sample_pairs(flips.take(~flips.flipped), len(banked.pairs), seed)
    bank, unflipped = (PatchTarget(each, rerun_paraphrases(vlm, prompts, each)) for each in (banked, stable))
    inputs = SaeInputs(lambda _: sae, residuals)
    (patch,) = feature_patches([(sae.layer, feature)], banked, stable, inputs, screen)
    test = FeatureTestEntry.model_validate(json_ready(apply_feature_patches([patch], bank, unflipped, seed)[0]))
    own = -torch.from_numpy(delta[flips.banked]).float()[:, None, None] * sae.w_dec[feature].float().cpu()
    effect = bank.effect([sae.layer], own, "feature patch, pair by pair")[:, 0]
    writes = layer_writes(vlm, prompts, bank, seed)
    writing = writing_layers({each.layer: each.net_write for each in writes})
    falls = falls_by_layer(bank, sae.layer, patch.vector, seed)
    family = [feature, *(relative.feature for relative in relatives)]
    vectors = split_shift(sae, here, banked.pairs)
    joint = joint_feature_patch(sae, codes, banked.pairs, family)
    *parts, together = [
        VectorPatchEntry.model_validate(json_ready(found))
        for found in patch_vectors(bank, [sae.layer] * 4, torch.cat([vectors, joint[:, None]], 1), seed)
    ]
    whole, _, error = vectors.double().pow(2).sum((0, 2)).tolist()
    told = len(banked.pairs) >= LEAST_FLIPS and banked.pairs["patient"].nunique() >= LEAST_PATIENTS
    return _Patched(
        test=test,
        pair_effects=pair_effects(bank, effect, patch, unflipped, seed),
        groups=recovery_by_group(bank, effect, prompts, seed),
        place=place_of(sae.layer, test, writing) if told else None,
        writes=writes,
        writing_layers=writing,
        mediation=[LayerFallEntry.model_validate(json_ready(fall)) for fall in falls],
        mediating_layers=layers_that_mediate(falls),
        parts=ResidualParts(
            **dict(zip(PARTS, parts, strict=True)), error_share=significant(error / whole) if whole else None
        ),
        family_patch=together if relatives else None,
        family_place=place_of(sae.layer, together, writing, FAMILY_MEDIATED) if told and relatives else None,
    )
