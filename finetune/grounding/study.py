"""Where a model looks, whether the maps that claim to show it are faithful, and whether an adapter changes either.

Every score has a control, and the tests are of the net, score - control: a map can lie on lesions merely because maps
and lesions favour the same places. The occlusion map by the chosen fill is the causal reference for all maps.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from pydantic import Field, InstanceOf

from finetune.evaluation.adapter_warnings import adapter_warnings
from finetune.grounding.all_images import observe_images
from finetune.grounding.map_scores import Floats
from finetune.grounding.questions import lesion_of, select_questions, wording_table
from finetune.grounding.score_table import mean_curves, score_table
from finetune.grounding.settings import GroundingSettings
from finetune.grounding.summary import differences, summaries
from finetune.lora.adapter_folder import load_adapter, shared_base
from finetune.lora.locate import locate_adapter
from interp.images.boxes import grid_side
from interp.model.memory_jobs import grounding
from interp.model.spec import ModelSpec, given_model
from interp.model.vlm import Vlm
from interp.questions.schema import Question
from interp.questions.spec import DataSpec, given_data
from interp.questions.tables import fingerprint
from interp.runtime.errors import InputError
from interp.runtime.progress import notify
from interp.saes.locate import given_saes, sae_of_layer
from interp.saes.sae import Sae, load_sae
from interp.schemas.grounding import CurvePoint, Grounding
from interp.storage.checkpoint import NO_CHECKPOINT, Checkpoint
from interp.storage.checksums import weights_fingerprint
from interp.storage.json_files import json_ready
from interp.storage.provenance import provenance, software
from interp.views.notebook import Details, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from peft import PeftModel

DEFAULTS = GroundingSettings()


class GroundingStudy(Grounding):
    """What `study` found: the content of grounding.json, the table of scores, and what its figures are drawn from.

        >>> list(looking.scores.columns[:3])
        [...]
        >>> axes = looking.plot_examples(1)

    Numbers have six significant digits and are None where they are undefined, as in grounding.json.
    """

    scores: InstanceOf[pd.DataFrame] = Field(
        exclude=True,
        description="one row per question, arm, map, score and control (finetune.grounding.score_table.COLUMNS)",
    )
    maps: InstanceOf[dict[str, dict[str, Floats]]] = Field(
        exclude=True, description="arm -> map -> [questions, image tokens] of the original wordings; never written"
    )
    asked: list[Question] = Field(exclude=True, description="the questions studied; never written")

    def details(self) -> Details:
        """Every score beside every control, for a notebook; the study itself shows those that matter most."""
        from interp.views.tables.grounding import grounding_overview

        return Details(grounding_overview(self))

    def plot_nets(self) -> "list[Axes]":
        """Show the scores of every map net of their controls in a new figure, one panel per score."""
        from interp.views.figures.grounding import map_nets, nets_frame

        return shown(map_nets(nets_frame(self.model_dump())))

    def plot_examples(self, count: int = 3) -> "list[Axes]":
        """Show the first `count` images in a new figure, one row per arm: the box, then every map over the image."""
        from finetune.grounding.figures import example_sheet

        return shown(example_sheet(self.asked[:count], self.maps))

    def __repr__(self) -> str:
        return f"<GroundingStudy of {self.model}: {', '.join(self.arms)}, {self.questions} questions>"

    def _repr_html_(self) -> str:
        from interp.views.notebook import overview_html
        from interp.views.tables.grounding import grounding_brief

        return overview_html(grounding_brief(self))


def study(
    vlm: Vlm,
    adapted: "PeftModel | None",
    questions: Sequence[Question],
    settings: GroundingSettings = DEFAULTS,
    feature: tuple[Sae, int] | None = None,
    checkpoint: Checkpoint = NO_CHECKPOINT,
) -> GroundingStudy:
    """Compute and score the maps of every closed question that has a lesion box, in the base and with its adapter.

    `adapted` is `vlm.model` with its adapter, or None. `feature` adds the map of an SAE feature. Images that are
    in the `checkpoint` are read from it, and others are added to it when they are done. Raises InputError if there is
    no such question, for boxes outside their image, unreadable images, and for layers, heads or a feature that the
    model does not have.
    """
    settings.maps.check(vlm)
    if feature is not None and not (0 <= feature[1] < feature[0].d_sae and feature[0].layer < vlm.n_layers):
        raise InputError(
            f"--feature {feature[0].layer}:{feature[1]}: {vlm.name} has layers 0 to {vlm.n_layers - 1}, "
            f"{feature[0].id} features 0 to {feature[0].d_sae - 1}."
        )
    asked = select_questions(questions, settings.any_answer, settings.limit)
    side = grid_side(vlm.model.config.mm_tokens_per_image)
    lesions = [lesion_of(q, side, np.random.default_rng([settings.seed, i])) for i, q in enumerate(asked)]
    wordings = wording_table(asked, questions, settings.paraphrases, settings.seed)
    observed = observe_images(
        vlm, adapted, wordings, lesions, settings.maps, settings.curve_steps, settings.seed, feature, checkpoint
    )
    scores = score_table(observed, wordings, lesions, settings.top)
    patients = [q.group for q in asked]
    originals = np.flatnonzero(wordings["role"] == "original")
    curves = mean_curves(observed, wordings).to_dict("records")
    return GroundingStudy(
        model=vlm.name,
        arms=list(observed),
        feature=None if feature is None else f"{feature[0].layer}:{feature[1]} of {feature[0].id}",
        data=fingerprint(asked),
        questions=len(asked),
        patients=len(set(patients)),
        right=json_ready({arm: _accuracy(seen.margins[originals], asked) for arm, seen in observed.items()}),
        summary=summaries(scores, patients, settings.seed),
        differences=differences(scores, patients, settings.seed),
        curves=[CurvePoint.model_validate(json_ready(point)) for point in curves],
        settings=json_ready(asdict(settings)),
        software=software(),
        provenance=provenance(),
        scores=scores,
        maps={arm: {name: values[originals] for name, values in seen.maps.items()} for arm, seen in observed.items()},
        asked=asked,
    )


class Loaded(NamedTuple):
    """The inputs of a study, loaded."""

    vlm: Vlm
    """The model, with the adapter in it if there is one."""
    adapted: "PeftModel | None"
    """The same model as peft wraps it; None without an adapter."""
    questions: list[Question]
    """All questions of the split."""
    feature: tuple[Sae, int] | None
    """SAE and feature whose map is studied too; None for none."""


def load_study(
    adapter: Path | None,
    data: DataSpec,
    model: ModelSpec = ModelSpec(),
    settings: GroundingSettings = DEFAULTS,
    feature: tuple[int, int] | None = None,
    sae_of: Mapping[int, Path] = MappingProxyType({}),
) -> Loaded:
    """Load the inputs of a study; `study_grounding` explains the arguments and the errors."""
    given = locate_adapter(adapter) if adapter else None
    if given is not None and given.is_model:
        raise InputError(f"{adapter}: a whole model. Give it with --model, without an adapter.")
    adapter = given.folder if given else None
    base, style, records = shared_base([adapter] if adapter else [], model)
    asked = data.load_test()
    select_questions(asked, settings.any_answer, settings.limit)
    vlm = base.load(style, grounding())
    chosen = None
    if feature is not None:
        layer, index = feature
        chosen = (load_sae(sae_of_layer(sae_of, layer, "--feature"), layer, vlm.d_model, vlm.device), index)
    if adapter is None:
        return Loaded(vlm, None, asked, chosen)
    # Before the adapter is loaded, while the weights are those of the base alone.
    digest = partial(weights_fingerprint, vlm.model)
    for said in adapter_warnings(vlm, str(base.model), digest, adapter, adapter.resolve().name, records[0]):
        notify(said)
    return Loaded(vlm, load_adapter(vlm, adapter), asked, chosen)


def study_grounding(
    adapter: str | Path | None,
    data: DataSpec | str | Path | Sequence[Question],
    model: ModelSpec | str | Path = ModelSpec(),
    settings: GroundingSettings = DEFAULTS,
    feature: tuple[int, int] | None = None,
    sae_of: Mapping[int, Path] | str | Path = MappingProxyType({}),
) -> GroundingStudy:
    """Run `study` on a model on disk and, if one is given, on a saved adapter of it.

        >>> settings = finetune.GroundingSettings(finetune.MapSettings(("attention",)), limit=3, curve_steps=2)
        >>> looking = finetune.study_grounding("adapter", interp.WORLD / "questions.jsonl", settings=settings)
        >>> looking
        <GroundingStudy of planted: base, adapter, 3 questions>

    The questions are those of the test split of `data`: a JSON Lines file, a DataSpec, or loaded questions. Unless
    `model` says otherwise, the base is the one that the adapter names, or the embedded world's model without an
    adapter, and the prompt style is that of the training. `feature` is a layer and a feature of its SAE, whose folder
    is in `sae_of` (layer -> folder, or a source of SAEs). Raises InputError as `study` does, for bad input, and for an
    adapter that does not fit the model.
    """
    folder = None if adapter is None else Path(adapter)
    saes = given_saes(sae_of, None if feature is None else [feature[0]])
    loaded = load_study(folder, given_data(data), given_model(model), settings, feature, saes)
    return study(loaded.vlm, loaded.adapted, loaded.questions, settings, loaded.feature)


def _accuracy(margins: Floats, asked: Sequence[Question]) -> float:
    known = [(m > 0) == (q.true_answer == "yes") for m, q in zip(margins, asked, strict=True) if q.answer is not None]
    return float(np.mean(known)) if known else math.nan
