"""`layers.json`: the one file that stands between `interp` and `finetune`, and its schema."""

import logging
import math
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from interp.runtime.errors import InputError
from interp.statistics import Estimate
from interp.storage.atomic import write_text
from interp.storage.json_files import read_object, refuse_newer
from interp.storage.provenance import Provenance

TransferVerdict = Literal["pass", "fail", "unclear"]
Module = Literal["attention", "mlp"]
"""The two parts of a decoder layer that add to the residual stream."""
Profile = Literal["write", "auc", "recovery", "net"]
Rule = Literal["write", "rise", "level"]
log = logging.getLogger(__name__)
SCHEMA_VERSION = 1
Verdict = Literal["gate found", "no gate found"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _nan_is_null(cls, value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value


class Interval(_Part):
    """A number with its 95% interval."""

    value: float | None = Field(description="the estimate; null where it is undefined")
    low: float | None = Field(description="lower end of the 95% interval")
    high: float | None = Field(description="upper end of the 95% interval")

    @classmethod
    def of(cls, estimate: Estimate) -> "Interval":
        """From an estimate; NaN becomes null, as JSON has none."""
        return cls(**{k: None if math.isnan(v) else round(v, 6) for k, v in estimate._asdict().items()})


class ModelEntry(_Part):
    """The model that was studied."""

    id: str = Field(description="hub id, or folder name")
    revision: str | None = Field(description="commit, null for a local folder")
    n_layers: int = Field(description="number of decoder layers")
    d_model: int = Field(description="width of the residual stream")
    dtype: str = Field(description="arithmetic used")


class PromptEntry(_Part):
    """How the questions were put to the model, around their own words."""

    image_first: bool = Field(default=True, description="image before the question")
    system: str | None = Field(default=None, description="system instruction")
    answer_instruction: str | None = Field(default=None, description="said behind every closed question")
    normalize: bool = Field(default=False, description="wordings put in one form first (interp.questions.canonical)")


class ProfileEntry(_Part):
    """One layer of the profile, measured on questions held out from the choice of features."""

    layer: int = Field(description="decoder layer; measures are of its output, resid_post")
    flip_auc: Interval = Field(description="held-out AUC of the layer's chosen features for flips")
    flip_auc_null: float | None = Field(
        description="95th percentile of that AUC with flips shuffled, best layer of all"
    )
    recovery: Interval = Field(description="layer patch: recovered share of the margin shift, flip bank")
    control: Interval = Field(description="the same with random directions of the same norm")
    step: Interval = Field(description="growth of (recovery - control) from the layer before")
    write: Interval = Field(description="write patch: share recovered by the layer's own addition, read directly")
    write_control: Interval = Field(description="the same with random directions of that addition's norm")
    net_write: Interval = Field(description="write - write_control")
    joint: Interval | None = Field(
        default=None, description="joint patch of the layer's features of highest attribution: recovered share"
    )
    net_joint: Interval | None = Field(default=None, description="joint - random directions of its norm")
    explained: float | None = Field(default=None, description="joint over recovery: share that the features explain")
    reversals: int = Field(description="flips whose answer the layer patch restores")
    r2: Interval | None = Field(default=None, description="explained variance of the SAE on all these residuals")
    transfer: TransferVerdict | None = Field(
        default=None, description="whether that is above 0.95 (interp.saes.reconstruction)"
    )
    fvu: float | None = Field(description="unexplained variance of the SAE on these residuals")
    l0: float | None = Field(description="mean active features on these residuals")


class ModuleWeight(_Part):
    """How much of the turn of the answers one module of one layer writes."""

    layer: int = Field(description="decoder layer")
    module: Module = Field(description="its attention or its MLP")
    net: Interval | None = Field(
        default=None,
        description="write patch of this module alone, net of random directions: recovered share of the margin shift",
    )
    weight: float = Field(ge=0, description="what `finetune --allocation weighted` shares ranks out by")


class CausalEntry(_Part):
    """What the delta patch of one feature does on held-out flips, beside its controls
    (interp.causal.feature_patching)."""

    n: int = Field(description="flips patched")
    recovery: Interval = Field(description="recovered share of the margin shift")
    random: float | None = Field(description="the same by random directions of the same norm, mean")
    matched: float | None = Field(description="the same by features that move as much but do not tell flips, mean")
    swapped: float | None = Field(description="the same with the feature's delta on another pair")
    net: Interval = Field(description="recovery - random")
    p: float | None = Field(description="sign-flip p of net over patients, adjusted over all features tested")
    p_random: float | None = Field(description="share of random directions that recover as much")
    reversals: int = Field(description="flips whose answer the patch turns back")
    random_reversals: float | None = Field(description="the same by random directions, mean")
    unflipped_changed: float | None = Field(description="share of unflipped pairs whose answer the patch changes")
    dose: list[float] = Field(description="recovery at 0.5, 1, 2 and 4 times the patch")


class FeatureEntry(_Part):
    """One feature that was tested, highest net recovery first."""

    layer: int = Field(description="decoder layer")
    feature: int = Field(description="index into the SAE")
    flip_auc: float | None = Field(description="AUC of |delta| for flips, selection half")
    flip_p: float | None = Field(description="adjusted p of flip_auc")
    held_out_auc: float | None = Field(description="the same AUC on the held-out half")
    delta_on_flips: float | None = Field(description="mean |delta| on flips")
    delta_otherwise: float | None = Field(description="mean |delta| on other pairs")
    margin_r: float | None = Field(description="correlation of delta with the margin shift")
    firing_rate: float | None = Field(description="share of prompts with the feature active")
    mean_activation: float | None = Field(description="mean activation where active")
    register_auc: float | None = Field(description="AUC for formal against casual wordings")
    attribution: float | None = Field(default=None, description="recovery predicted by gradient, selection half")
    causal: CausalEntry | None = Field(default=None, description="its delta patch on held-out flips")


class RangeEntry(_Part):
    """A range of layers taken by one rule."""

    rule: Rule = Field(description="how it was taken")
    profile: Profile | None = Field(default=None, description="the score that it was taken from")
    first: int = Field(description="first layer")
    last: int = Field(description="last layer, included")
    peak: int = Field(description="layer of the highest score")


class DataEntry(_Part):
    """The questions that were used; no text, path or patient among it."""

    fingerprint: str = Field(description="hash of the questions")
    split: str = Field(description="train, test or all")
    questions: int = Field(description="closed questions measured")
    pairs: int = Field(description="(question, paraphrase) pairs")
    patients: int = Field(description="patients, or images where unknown")
    flips: int = Field(description="flipped pairs")
    flip_bank: int = Field(description="flipped pairs with both margins beyond the threshold")
    question_flip_rate: Interval = Field(description="share of questions with a flipped paraphrase")
    pairwise_flip_rate: Interval = Field(description="share of flipped pairs")
    accuracy: Interval = Field(description="share of right answers over all wordings")


class Layers(_Part):
    """The whole of layers.json."""

    schema_version: int = Field(description="version of this schema")
    verdict: Verdict = Field(description="whether any layer beats its controls")
    reason: str = Field(description="why, in one sentence")
    layers: list[int] = Field(description="the range to train, empty where no gate was found")
    peak: int | None = Field(description="layer of the highest score")
    rule: Rule = Field(description="the rule that took `layers`")
    commit_layer: int | None = Field(
        default=None, description="first layer whose layer patch turns half of the flips back"
    )
    ranges: list[RangeEntry] = Field(description="what each rule gives")
    model: ModelEntry = Field(description="the model")
    prompt: PromptEntry = Field(default=PromptEntry(), description="the prompt around the questions")
    saes: dict[int, str] = Field(description="layer -> SAE id")
    data: DataEntry = Field(description="the questions")
    profile: list[ProfileEntry] = Field(description="one entry a layer")
    weights: list[ModuleWeight] = Field(
        default_factory=list, description="one entry a layer and module; may be written by hand"
    )
    features: list[FeatureEntry] = Field(description="top features of the screen")
    warnings: list[str] = Field(default_factory=list, description="what limits these results, a sentence each")
    settings: dict[str, Any] = Field(description="options of the run")
    seed: int = Field(description="seed of splits, controls and bootstrap")
    software: dict[str, str] = Field(description="versions")
    provenance: Provenance | None = Field(default=None, description="how it came about; null where not recorded")

    @model_validator(mode="after")
    def _layers_of_the_model(self) -> "Layers":
        if self.layers != sorted(set(self.layers)) or not all(0 <= x < self.model.n_layers for x in self.layers):
            raise ValueError(f"layers are not ascending, or not all among the model's {self.model.n_layers}")
        if self.verdict == "gate found" and not self.layers:
            raise ValueError("a gate was found, but in no layer")
        return self


def write_layers(layers: Layers, path: Path) -> None:
    """Write layers.json, whole or not at all."""
    write_text(path, layers.model_dump_json(indent=2) + "\n")


def read_layers(path: str | Path) -> Layers:
    """Read layers.json. Raises InputError for a file that is absent, damaged, or of a newer schema."""
    path = Path(path)
    if not path.is_file():
        wrong = "is a folder" if path.is_dir() else "no such file"
        raise InputError(f"{path}: {wrong}. Run `interp find-features` first, or give layers with --layers 15-19.")
    content = read_object(path)
    version = content.get("schema_version")
    if not isinstance(version, int):
        raise InputError(f"{path}: no schema_version, so not a layers.json of GateScope.")
    refuse_newer(path, version, SCHEMA_VERSION)
    try:
        found = Layers.model_validate(content)
        log.info("%s: %s, layers %s", path.name, found.verdict, ", ".join(map(str, found.layers)) or "none")
        return found
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{path}: field {'.'.join(map(str, first['loc'])) or 'layers'}: {first['msg']}.") from None
