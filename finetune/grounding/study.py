"""Where a model looks, whether the maps that claim to show it are faithful, and whether an adapter changes either.

Every score stands beside a control, and its net, score less control, is what is tested: a map can lie on a lesion
because lesions lie where maps like to lie. The occlusion by the chosen fill is the causal reference of all maps.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from finetune.grounding.all_images import observe
from finetune.grounding.map_scores import Floats
from finetune.grounding.one_image import MapSettings
from finetune.grounding.questions import asks_of, lesion_of, studied
from finetune.grounding.resume import Kept
from finetune.grounding.score_table import mean_curves, score_table
from finetune.grounding.summary import ArmDifference, ArmSummary, differences, summaries
from finetune.lora.adapter_folder import load_adapter, shared_base
from interp.feature.study import folder_of
from interp.images.boxes import grid_side
from interp.model.load import load_vlm
from interp.model.vlm import Vlm
from interp.questions.files import Split, load_questions
from interp.questions.schema import Question
from interp.questions.tables import fingerprint
from interp.runtime.errors import InputError
from interp.saes.sae import Sae, load_sae
from interp.storage.json_files import json_ready
from interp.storage.provenance import provenance, software
from interp.views.notebook import page_html, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from peft import PeftModel


DEFAULT_MAPS = MapSettings()


@dataclass(frozen=True)
class GroundingSettings:
    """How a study is made. Raises InputError for a value outside its range."""

    maps: MapSettings = DEFAULT_MAPS
    """Which maps, and how they are made."""
    limit: int | None = None
    """Questions that are studied, the first ones; None for all."""
    any_answer: bool = False
    """Also questions with a box whose true answer is not yes, where the box need not be the evidence."""
    paraphrases: int = 3
    """Paraphrases of a question that its maps are compared with, the first ones."""
    curve_steps: int = 8
    """Most steps from the whole image to none in deletion and insertion."""
    seed: int = 0
    """Of random places and orders, of the images and questions compared with, and of the intervals."""

    def __post_init__(self) -> None:
        for name, least in (("paraphrases", 0), ("curve_steps", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}, expected at least {least}.")


@dataclass(frozen=True, eq=False)
class GroundingStudy:
    """What `study` found. Of `maps` and `asked`, which are for drawing, nothing is written."""

    model: str
    """Hub id, or folder name."""
    arms: list[str]
    """base, and adapter if there is one."""
    settings: GroundingSettings
    """How it was made."""
    feature: str | None
    """LAYER:FEATURE and its SAE, if a feature's map was asked for."""
    data: str
    """Fingerprint of the questions studied."""
    questions: int
    """Questions studied."""
    patients: int
    """Their patients, or images where unknown."""
    right: dict[str, float]
    """Arm -> share of the questions that it answers truly, of those whose answer is known."""
    scores: pd.DataFrame
    """One row a question, arm, map, score and control (`finetune.grounding.score_table.COLUMNS`)."""
    summary: list[ArmSummary]
    """Means over the questions."""
    differences: list[ArmDifference]
    """Adapter - base; empty without an adapter."""
    curves: pd.DataFrame
    """Mean deletion and insertion (`finetune.grounding.score_table.mean_curves`)."""
    maps: dict[str, dict[str, Floats]]
    """Arm -> map -> [questions, T], of the original wordings."""
    asked: list[Question]
    """The questions."""

    def plot_nets(self) -> "list[Axes]":
        """Show the scores of every map net of their controls in a new figure, a panel a score."""
        from interp.views.figures.grounding import map_nets, nets_frame

        return shown(map_nets(nets_frame(json.loads(self.to_json()))))

    def plot_examples(self, count: int = 3) -> "list[Axes]":
        """Show the first `count` images in a new figure, each with its box, then every map over it, a row an arm."""
        from finetune.grounding.figures import example_sheet

        return shown(example_sheet(self, count))

    def __repr__(self) -> str:
        return f"<GroundingStudy of {self.model}: {', '.join(self.arms)}, {self.questions} questions>"

    def _repr_html_(self) -> str:
        from finetune.grounding.terminal import grounding_table

        return page_html(f"{self.model}: where {' and '.join(self.arms)} look", [], [grounding_table(self)])

    def to_json(self) -> str:
        """Settings, summary, differences and curves as JSON, indented; undefined numbers are null."""
        content = {
            "schema_version": 1,
            "model": self.model,
            "arms": self.arms,
            "feature": self.feature,
            "data": self.data,
            "questions": self.questions,
            "patients": self.patients,
            "right": self.right,
            "summary": self.summary,
            "differences": self.differences,
            "curves": self.curves.to_dict("records"),
            "settings": asdict(self.settings),
            "software": software(),
            "provenance": provenance().model_dump(),
        }
        return json.dumps(json_ready(content), indent=2, allow_nan=False) + "\n"


def study(
    vlm: Vlm,
    adapted: "PeftModel | None",
    questions: Sequence[Question],
    settings: GroundingSettings = GroundingSettings(),
    feature: tuple[Sae, int] | None = None,
    kept: Kept | None = None,
) -> GroundingStudy:
    """Make and judge the maps of every closed question that has a lesion box, in the base and with its adapter.

    `adapted` is `vlm.model` with its adapter, None for none. `feature` adds the map of an SAE feature. Images that are
    `kept` are not looked at again, others are kept when they are done, unless that is None. Raises
    InputError if there is no such question, for boxes outside their image, unreadable images, and for layers, heads or
    a feature that the model does not have.
    """
    settings.maps.check(vlm)
    if feature is not None and not (0 <= feature[1] < feature[0].d_sae and feature[0].layer < vlm.n_layers):
        raise InputError(
            f"--feature {feature[0].layer}:{feature[1]}: {vlm.name} has layers 0 to {vlm.n_layers - 1}, "
            f"{feature[0].id} features 0 to {feature[0].d_sae - 1}."
        )
    asked = studied(questions, settings.any_answer, settings.limit)
    side = grid_side(vlm.model.config.mm_tokens_per_image)
    lesions = [lesion_of(q, side, np.random.default_rng([settings.seed, i])) for i, q in enumerate(asked)]
    asks = asks_of(asked, questions, settings.paraphrases, settings.seed)
    observed = observe(vlm, adapted, asks, lesions, settings.maps, settings.curve_steps, settings.seed, feature, kept)
    scores = score_table(observed, asks, lesions)
    patients = [q.group for q in asked]
    originals = np.flatnonzero(asks["role"] == "original")
    return GroundingStudy(
        model=vlm.name,
        arms=list(observed),
        settings=settings,
        feature=None if feature is None else f"{feature[0].layer}:{feature[1]} of {feature[0].id}",
        data=fingerprint(asked),
        questions=len(asked),
        patients=len(set(patients)),
        right={arm: _right(seen.margins[originals], asked) for arm, seen in observed.items()},
        scores=scores,
        summary=summaries(scores, patients, settings.seed),
        differences=differences(scores, patients, settings.seed),
        curves=mean_curves(observed, asks),
        maps={arm: {name: values[originals] for name, values in seen.maps.items()} for arm, seen in observed.items()},
        asked=asked,
    )


class Loaded(NamedTuple):
    """What a study is made on."""

    vlm: Vlm
    """With the adapter in it, if there is one."""
    adapted: "PeftModel | None"
    """The model with its adapter."""
    questions: list[Question]
    """Of the split."""
    feature: tuple[Sae, int] | None
    """SAE and feature whose map is wanted."""


def load_study(
    adapter: Path | None,
    questions: Path,
    model: str | None = None,
    images: Path | None = None,
    split: Split = "test",
    settings: GroundingSettings = GroundingSettings(),
    feature: tuple[int, int] | None = None,
    sae_of: Mapping[int, Path] = MappingProxyType({}),
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
    prompt_changes: Mapping[str, Any] = MappingProxyType({}),
) -> Loaded:
    """A model on disk and what it is to be asked; arguments and errors as of `study_grounding`."""
    source, style, _ = shared_base([adapter] if adapter else [], model, prompt_changes)
    asked = load_questions(questions, images, split)
    studied(asked, settings.any_answer, settings.limit)
    vlm = load_vlm(source, device, dtype, revision, style)
    chosen = None
    if feature is not None:
        layer, index = feature
        chosen = (load_sae(folder_of(sae_of, layer, "--feature"), layer, vlm.d_model, vlm.device), index)
    adapted = load_adapter(vlm, adapter) if adapter else None
    return Loaded(vlm, adapted, asked, chosen)


def study_grounding(
    adapter: Path | None,
    questions: Path,
    model: str | None = None,
    images: Path | None = None,
    split: Split = "test",
    settings: GroundingSettings = GroundingSettings(),
    feature: tuple[int, int] | None = None,
    sae_of: Mapping[int, Path] = MappingProxyType({}),
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
    prompt_changes: Mapping[str, Any] = MappingProxyType({}),
) -> GroundingStudy:
    """`study` of a model on disk, beside it a saved adapter if one is given.

    `model` is by default the base that the adapter names, the prompt style the one it was trained with but for
    `prompt_changes`. `feature` is layer and feature of one of the SAEs `sae_of` (layer -> folder). Raises InputError as
    `study`, and for bad input, an adapter that does not fit the model, and if there is no model.
    """
    loaded = load_study(
        adapter, questions, model, images, split, settings, feature, sae_of, device, dtype, revision, prompt_changes
    )
    return study(loaded.vlm, loaded.adapted, loaded.questions, settings, loaded.feature)


def _right(margins: Floats, asked: Sequence[Question]) -> float:
    known = [(m > 0) == (q.true_answer == "yes") for m, q in zip(margins, asked, strict=True) if q.answer is not None]
    return float(np.mean(known)) if known else math.nan
