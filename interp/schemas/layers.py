"""`layers.json`, which `interp find-features` writes and `finetune` reads: its schema, writer and reader."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from interp.runtime.errors import InputError
from interp.schemas.layers_part import LayersPart
from interp.schemas.layers_v1 import upgraded
from interp.schemas.record import Interval
from interp.schemas.rules import Rule
from interp.schemas.tested_features import FamilyEntry, FeatureEntry
from interp.storage.atomic import write_text
from interp.storage.folders import did_you_mean, nearest_folder
from interp.storage.json_files import read_object, refuse_newer
from interp.storage.provenance import Provenance

TransferVerdict = Literal["pass", "fail", "unclear"]
GateVerdict = Literal[
    "gate found", "arrives from the question", "as answers form", "spread over layers", "no gate found", "too few flips"
]
TRAINABLE: tuple[GateVerdict, ...] = (
    "gate found",
    "arrives from the question",
    "as answers form",
    "spread over layers",
)
"""Verdicts that name layers to train."""
SCHEMA_VERSION = 4
log = logging.getLogger(__name__)


class ModelEntry(LayersPart):
    """The model that was studied."""

    id: str = Field(description="hub id, or name of the local folder")
    revision: str | None = Field(description="commit of the hub repository; null for a local folder")
    n_layers: int = Field(description="number of decoder layers")
    d_model: int = Field(description="width of the residual stream")
    dtype: str = Field(description="data type of the computation, for example bfloat16")
    load_in: Literal["4bit", "8bit"] | None = Field(
        default=None, description="quantization of the decoder's projections; null if they are not quantized"
    )
    synthetic: bool = Field(
        default=False, description="whether `interp demo` built it: of synthetic radiographs, or with a planted gate"
    )


class PromptEntry(LayersPart):
    """What stood around the words of each question in the prompt."""

    image_first: bool = Field(default=True, description="whether the image came before the question")
    system: str | None = Field(default=None, description="system instruction")
    answer_instruction: str | None = Field(default=None, description="text appended to every closed question")
    normalize: bool | Literal["psf-med"] = Field(
        default=False, description="whether wordings were first put into one form (interp.questions.canonical)"
    )


class ProfileEntry(LayersPart):
    """One layer of the profile, measured on the held-out half of the patients.

    Recoveries are shares of the margin shift m(q) - m(p), summed over the pairs of the flip bank.
    """

    layer: int = Field(description="decoder layer; everything is measured at its output, resid_post")
    flip_auc: Interval = Field(description="AUC of the layer's chosen features for flipped against other pairs")
    flip_auc_null: float | None = Field(
        description="95th percentile of the best layer's flip AUC when flips are shuffled"
    )
    recovery: Interval = Field(description="recovery by the residual patch")
    random_patch: Interval = Field(description="recovery by random directions with the norm of the residual patch")
    write: Interval = Field(description="recovery by the direct-effect patch of what the layer itself adds")
    random_write: Interval = Field(description="recovery by random directions with the norm of the direct-effect patch")
    net_write: Interval = Field(description="write - random_write")
    feature_patch: Interval | None = Field(
        default=None, description="recovery by the joint feature patch of the layer's features of highest attribution"
    )
    net_feature_patch: Interval | None = Field(
        default=None, description="feature_patch minus the recovery by random directions of the same norm"
    )
    explained: float | None = Field(
        default=None, description="feature_patch / recovery: share of the residual patch that the features explain"
    )
    answer: Interval | None = Field(
        default=None, description="recovery by the answer patch: the part of the difference that says another answer"
    )
    random_answer: Interval | None = Field(
        default=None, description="recovery by the part along random directions with the same gains"
    )
    answer_growth: Interval | None = Field(
        default=None,
        description="answer - random_answer, minus the same at the profiled layer below; from layer 0 on, what turned "
        "the wording into an answer. Null in the first profiled layer, unless it is layer 0 or the only one",
    )
    growth_p: float | None = Field(
        default=None,
        description="p of answer_growth, sign-flip test over patients, Benjamini-Hochberg adjusted over the layers",
    )
    register_patch: Interval | None = Field(
        default=None,
        description="recovery by the register patch, the part along the mean difference of formal and casual wordings; "
        "null without registers",
    )
    random_register: Interval | None = Field(
        default=None, description="recovery by random directions with the norm of the register patch"
    )
    reversals: int = Field(description="number of flips whose original answer the residual patch restores")
    r2: Interval | None = Field(default=None, description="variance of these residuals that the SAE explains")
    transfer: TransferVerdict | None = Field(
        default=None, description="whether r2 is above 0.95 (interp.saes.reconstruction)"
    )
    fvu: float | None = Field(description="fraction of the variance of these residuals that the SAE leaves unexplained")
    l0: float | None = Field(description="mean number of features active on one of these residuals")


class SaeEntry(LayersPart):
    """Where the SAE of one layer comes from."""

    layer: int = Field(description="decoder layer")
    folder: str = Field(description="path in the hub repository, or name of the local folder")
    repository: str | None = Field(description="hub repository; null for a local folder")
    revision: str | None = Field(description="commit of the hub repository; null for a local folder")
    release: str | None = Field(description="release by which sae-lens knows the SAE; null if it knows none")
    digest: str = Field(description="hash of its biases and thresholds (interp.saes.sae_folder.sae_digest)")
    neuronpedia: str | None = Field(
        default=None,
        description="model and source of its pages on Neuronpedia, as gemma-3-4b-it/17-gemmascope-2-res-16k; null if "
        "it has none",
    )


class GateEntry(LayersPart):
    """The feature that a gate reads, or the family, and the layers that write the other answer."""

    feature: int = Field(
        description="index of the cause with the highest mediated recovery, or the feature whose family is the cause"
    )
    family: list[int] = Field(
        default_factory=list,
        description="its relatives, where the cause is the family of features and no single one; otherwise empty",
    )
    read_layer: int = Field(description="its layer")
    mediating_layers: list[int] = Field(
        default_factory=list,
        description="layers that read its change: where the recovery falls (interp.causal.mediation); empty if none "
        "stands out",
    )
    write_layers: list[int] = Field(description="layers whose own addition moves the answer (`net_write`)")
    span: list[int] = Field(
        default_factory=list,
        description="layers from the feature's to the last that writes, where a LoRA can act on the gate; only the two "
        "ends, the feature's layer and all that write, where that is more than --max-layers, which the ends can exceed",
    )


class FormalityEntry(LayersPart):
    """Whether it is the register that is turned into another answer (interp.causal.register_patching)."""

    layer: int = Field(description="layer of the highest register patch, chosen on the selection half")
    recovery: Interval = Field(description="its recovery on the held-out half")
    random: Interval = Field(description="recovery by random directions of the same norm")
    holds: bool = Field(description="whether the whole interval is above 0.5 and above that of random directions")


class RangeEntry(LayersPart):
    """The range of layers that one rule takes (interp.profile.ranges)."""

    rule: Rule = Field(description="name of the rule")
    first: int = Field(description="first layer")
    last: int = Field(description="last layer, included")
    peak: int = Field(description="layer with the highest score in the range")
    share: Interval | None = Field(
        default=None,
        description="share of the flipped answers that the range makes: sum of `answer_growth` over it, divided by the "
        "largest net recovery of the answer patch; held-out half",
    )
    formed: Interval | None = Field(
        default=None,
        description="the same share of answers that differ because the image does: is this where all answers are made?",
    )
    arrived: Interval | None = Field(
        default=None,
        description="net recovery by the residual patch at the profiled layer below the range, or at the last of its "
        "layers that no image has reached: is the difference of wording at the final token before?",
    )
    restored: Interval | None = Field(
        default=None, description="recovery by the window patch of the range: is what it adds enough for the flip?"
    )
    random_restored: Interval | None = Field(default=None, description="recovery by random directions of the same norm")
    broken: Interval | None = Field(
        default=None,
        description="share of the shift that the original loses to the reversed window patch: does the flip need it?",
    )
    random_broken: Interval | None = Field(
        default=None, description="share that it loses to random directions of the same norm"
    )


class DataEntry(LayersPart):
    """The questions that were used. It contains no text, path or patient."""

    fingerprint: str = Field(description="hash of the questions")
    split: str = Field(description="split that all questions are of, train or test; otherwise all")
    questions: int = Field(description="number of closed questions measured")
    pairs: int = Field(description="number of (question, paraphrase) pairs")
    patients: int = Field(description="number of patients, or of images where patients are unknown")
    flips: int = Field(description="number of flipped pairs")
    flip_bank: int = Field(description="number of flipped pairs with both margins beyond the threshold")
    question_flip_rate: Interval = Field(description="share of questions with at least one flipped paraphrase")
    pairwise_flip_rate: Interval = Field(description="share of pairs that flip")
    accuracy: Interval = Field(description="share of right answers over all wordings")


class Layers(LayersPart):
    """The whole content of layers.json."""

    schema_version: int = Field(default=SCHEMA_VERSION, description="version of this schema")
    verdict: GateVerdict = Field(
        description="whether flips arise in a few layers, in many, or nowhere that can be told"
    )
    reason: str = Field(description="grounds of the verdict in one sentence")
    layers: list[int] = Field(
        description="the layers to train, ascending: the range, or all layers that matter where the flips are spread; "
        "empty if none can be told"
    )
    peak: int | None = Field(description="layer with the highest score in the range")
    rule: Rule = Field(description="rule that took `layers`")
    commit_layer: int | None = Field(
        default=None,
        description="first profiled layer whose residual patch restores half of the flipped answers; where the layer "
        "below it is not profiled, they may be restored earlier",
    )
    ranges: list[RangeEntry] = Field(description="range that each rule takes")
    model: ModelEntry = Field(description="the model")
    prompt: PromptEntry = Field(default=PromptEntry(), description="what stood around the questions")
    saes: dict[int, str] = Field(description="layer -> folder name of its SAE")
    sae_sources: list[SaeEntry] = Field(
        default_factory=list, description="where each SAE comes from; empty in files of older versions"
    )
    data: DataEntry = Field(description="the questions")
    profile: list[ProfileEntry] = Field(description="one entry per layer")
    features: list[FeatureEntry] = Field(description="features that were tested, causes first")
    families: list[FamilyEntry] = Field(
        default_factory=list, description="families of features that were tested, causes first"
    )
    gate: GateEntry | None = Field(
        default=None, description="what the gate reads and where it writes; null if no cause was found"
    )
    formality: FormalityEntry | None = Field(
        default=None, description="whether the register causes the flips; null without formal and casual wordings"
    )
    warnings: list[str] = Field(default_factory=list, description="what limits these results, one sentence each")
    settings: dict[str, Any] = Field(description="settings of the run (interp.search.settings.FindSettings)")
    seed: int = Field(description="seed of the halves, the controls and the bootstrap")
    software: dict[str, str] = Field(description="package -> version")
    provenance: Provenance | None = Field(
        default=None, description="command, commit, device and start; null where not recorded"
    )

    @model_validator(mode="after")
    def _layers_of_the_model(self) -> "Layers":
        if self.layers != sorted(set(self.layers)) or not all(0 <= x < self.model.n_layers for x in self.layers):
            raise ValueError(f"layers are not ascending, or not all among the model's {self.model.n_layers}")
        if self.verdict in TRAINABLE and not self.layers:
            raise ValueError(f"the verdict is {self.verdict!r}, but no layer is named")
        return self


def hub_sources(entries: Sequence[SaeEntry]) -> str:
    """Repository, commit and release of the SAEs from the hub, each once; empty if none is from there."""
    hub = [entry for entry in entries if entry.repository is not None]
    named = [f"{e.repository}@{e.revision}{f' ({e.release})' if e.release else ''}" for e in hub]
    return ", ".join(dict.fromkeys(named))


def write_layers(layers: Layers, path: Path) -> None:
    """Write layers.json atomically."""
    write_text(path, layers.to_json())


def read_layers(path: str | Path) -> Layers:
    """Read layers.json of this or an older schema version; `path` is the file or its folder.

    Raises InputError for a file that is absent or damaged, or whose schema is newer than this version of GateScope.
    """
    path = Path(path)
    if path.is_dir():
        path /= "layers.json"
    if not path.is_file():
        meant = nearest_folder(path) or (None if path.parent.is_dir() else nearest_folder(path.parent))
        raise InputError(
            f"{path}: no such file.{did_you_mean(meant)} Give the folder that `interp find-features` wrote, or its "
            "layers.json."
        )
    content = read_object(path)
    version = content.get("schema_version")
    if not isinstance(version, int):
        raise InputError(f"{path}: found no schema_version, so it is not a layers.json of GateScope.")
    refuse_newer(path, version, SCHEMA_VERSION)
    try:
        # Versions 3 and 4 added fields, verdicts and a rule to version 2, and renamed nothing.
        older = upgraded(content) if version == 1 else content
        found = Layers.model_validate(older | {"schema_version": SCHEMA_VERSION})
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{path}: field {'.'.join(map(str, first['loc'])) or 'layers'}: {first['msg']}.") from None
    log.info("%s: %s, layers %s", path.name, found.verdict, ", ".join(map(str, found.layers)) or "none")
    return found
