"""The adapter folder: the files of peft, and a record of where the adapter comes from."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from finetune.lora.foreign_config import read_config, refuse_unsaved_ranks
from finetune.lora.history import StepRecord
from finetune.lora.layers import Choice
from finetune.lora.modules import quiet_peft, trainable_parameters
from finetune.lora.settings import TrainSettings
from interp.model.model_entry import model_entry
from interp.model.prompts import DEFAULT_STYLE, PromptStyle
from interp.model.spec import ModelSpec
from interp.model.vlm import Vlm
from interp.questions.schema import Question
from interp.questions.tables import fingerprint
from interp.runtime.errors import InputError
from interp.schemas.adapter import AdapterRecord
from interp.schemas.layers import PromptEntry
from interp.schemas.read import read_artifact
from interp.storage.atomic import atomic_folder, write_text
from interp.storage.manifest import check_manifest, write_manifest
from interp.storage.provenance import provenance, software

if TYPE_CHECKING:
    from peft import PeftModel


def record_of(
    vlm: Vlm,
    adapted: "PeftModel",
    choice: Choice,
    taught: Sequence[Question],
    settings: TrainSettings,
    hashes: list[str],
    history: Sequence[StepRecord],
    seconds: float,
) -> AdapterRecord:
    """The record of an adapter that was just trained on `taught`; `hashes` are those of all wordings that it saw."""
    losses = [step.loss for step in history]
    tenth = max(1, len(losses) // 10)
    return AdapterRecord(
        model=model_entry(vlm),
        prompt=PromptEntry(**vlm.style._asdict()),
        layers=choice.layers,
        layers_from=choice.source,
        settings=asdict(settings),
        data=fingerprint(taught),
        questions=len(taught),
        paraphrases=sum(len(q.same_meaning) for q in taught),
        patients=len({q.group for q in taught}),
        text_hashes=hashes,
        steps=len(history),
        first_loss=sum(losses[:tenth]) / tenth,
        last_loss=sum(losses[-tenth:]) / tenth,
        trainable_parameters=trainable_parameters(adapted),
        seconds=round(seconds, 1),
        software=software(),
        provenance=provenance(),
    )


def write_adapter(folder: Path, adapted: "PeftModel", record: AdapterRecord, history: Sequence[StepRecord]) -> None:
    """Write the adapter in peft's format, gatescope.json and history.csv into an existing folder."""
    # No embedding is ever trained; with True, peft would ask the hub about the vocabulary.
    adapted.save_pretrained(str(folder), save_embedding_layers=False)
    write_text(folder / "gatescope.json", record.to_json())
    pd.DataFrame(history).to_csv(folder / "history.csv", index=False)


def write_apart(out: Path, adapted: "PeftModel", record: AdapterRecord, history: Sequence[StepRecord]) -> None:
    """Write an adapter without an evaluation into the new folder `out`, atomically."""
    with atomic_folder(out) as folder:
        write_adapter(folder, adapted, record, history)
        # The empty form that peft writes names the base by its path on this machine.
        (folder / "README.md").unlink(missing_ok=True)
        write_manifest(folder, {path.name: path for path in folder.iterdir()})


def read_record(folder: Path) -> AdapterRecord | None:
    """The record in an adapter folder, None if the adapter was not made here.

    Raises InputError for a record that is damaged or of a newer schema.
    """
    path = folder / "gatescope.json"
    return read_artifact(path, AdapterRecord) if path.is_file() else None


def base_of(folder: Path) -> str:
    """The base model that an adapter folder names. Raises InputError if it is not a plain LoRA, or names none."""
    check_adapter(folder)
    named = read_config(folder).get("base_model_name_or_path")
    if not named:
        raise InputError(f"{folder}: adapter_config.json names no base model. Give one with --model.")
    return named


def shared_base(
    adapters: Sequence[Path], model: ModelSpec
) -> tuple[ModelSpec, PromptStyle, list[AdapterRecord | None]]:
    """The base model of some adapters, the prompt style that they were trained with, and the record of each.

    What `model` sets takes precedence over the base that the adapters name and over fields of the prompt style. Raises
    InputError if the adapters name different bases or prompt styles, and for folders that hold no complete adapter.
    """
    bases = {base_of(adapter) for adapter in adapters}
    records = [read_record(adapter) for adapter in adapters]
    if model.model is None and len(bases) > 1:
        raise InputError(
            f"The adapters name {len(bases)} different bases. Evaluate them separately, or give one base with --model."
        )
    recorded = [PromptStyle(**record.prompt.model_dump()) if record else DEFAULT_STYLE for record in records]
    styles = {model.prompt_style(style) for style in recorded or [DEFAULT_STYLE]}
    if len(styles) > 1:
        raise InputError(
            "The adapters were trained with different prompts (order of image and question, system instruction, "
            "answer instruction or normalization). Evaluate them separately, or choose one prompt with these options."
        )
    base = model if model.model is not None or not bases else replace(model, model=bases.pop())
    return base, styles.pop(), records


def check_adapter(folder: Path) -> None:
    """Raise InputError unless `folder` holds a complete adapter in safetensors, unchanged if it has a manifest."""
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise InputError(
                f"{folder}: found no {name} there. Give a folder that `finetune` wrote, or another adapter of peft."
            )
    check_manifest(folder)


def load_adapter(vlm: Vlm, folder: Path) -> "PeftModel":
    """Put a saved adapter into `vlm.model`, in place.

    Raises InputError if the adapter is damaged, is not a plain LoRA, or does not fit the model; the model is then
    unchanged.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    check_adapter(folder)
    config = read_config(folder)
    try:
        refuse_unsaved_ranks(folder, config)
        with quiet_peft():
            adapted = PeftModel.from_pretrained(vlm.model, str(folder))
        with safe_open(folder / "adapter_model.safetensors", "pt") as saved:
            # peft ignores weights that have no place in the model, which would evaluate a different adapter.
            names = set(saved.keys())
            # Without this, peft asks the hub whether the vocabulary of the base was changed.
            embeddings = any("embed" in name or "lm_head" in name for name in names)
            left = sorted(names ^ set(get_peft_model_state_dict(adapted, save_embedding_layers=embeddings)))
        if left:
            raise ValueError(f"{len(left)} weights without a place, for example {left[0]}")
        return adapted
    # peft trusts configurations, and wrong ones can cause errors of any kind.
    except Exception as error:
        _take_out(vlm.model)
        if isinstance(error, InputError):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{folder}: does not fit {vlm.name} ({reason}). Give --model its own base.") from None


def _take_out(model: Any) -> None:
    """Undo the wrapping of modules by an adapter that was loaded in part."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
            inner = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module.original_module
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, inner)


def changes_vision_encoder(adapted: "PeftModel") -> bool:
    """Whether the adapter reaches the vision tower or the projector, so that the arms see different image tokens."""
    from peft import get_peft_model_state_dict

    names = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    return any("vision_tower" in name or "multi_modal_projector" in name for name in names)
