"""The adapter folder: the files of peft, and a record of where the adapter comes from."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from finetune.lora.foreign_config import lora_config_of, read_config, saved_rank, unmatched_keys
from finetune.lora.history import EpochScores, StepRecord, by_epoch
from finetune.lora.layers import Choice
from finetune.lora.module_names import PRESENT_NAMES
from finetune.lora.module_tree import LoadReport, ModuleTree, base_kept
from finetune.lora.modules import quiet_peft, trainable_parameters
from finetune.lora.processor_files import write_processor
from finetune.lora.recipe import UNPUBLISHED, recipe_of
from finetune.lora.settings import TrainSettings
from interp.model.image_token_cache import vision_encoder_modules
from interp.model.model_entry import model_entry
from interp.model.prompts import DEFAULT_STYLE, PromptStyle
from interp.model.spec import ModelSpec
from interp.model.vlm import Vlm
from interp.questions.schema import Question
from interp.questions.tables import fingerprint
from interp.runtime.errors import InputError, first_line
from interp.schemas.adapter import AdapterRecord
from interp.schemas.layers import PromptEntry
from interp.schemas.read import read_artifact
from interp.storage.atomic import atomic_folder, write_text
from interp.storage.folders import check_folder
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
    scores: Sequence[EpochScores],
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
        recipe=recipe_of(settings),
        unpublished=list(UNPUBLISHED),
        data=fingerprint(taught),
        questions=len(taught),
        paraphrases=sum(len(q.same_meaning) for q in taught),
        patients=len({q.group for q in taught}),
        text_hashes=hashes,
        steps=len(history),
        first_loss=sum(losses[:tenth]) / tenth,
        last_loss=sum(losses[-tenth:]) / tenth,
        epochs=by_epoch(history, scores),
        trainable_parameters=trainable_parameters(adapted),
        seconds=round(seconds, 1),
        software=software(),
        provenance=provenance(),
    )


def write_adapter(
    folder: Path, adapted: "PeftModel", processor: Any, record: AdapterRecord, history: pd.DataFrame
) -> None:
    """Write the adapter in peft's format, its processor, gatescope.json and history.csv into an existing folder.

    `history` is that of `finetune.lora.history.history_table`.
    """
    # No embedding is ever trained; with True, peft would ask the hub about the vocabulary.
    adapted.save_pretrained(str(folder), save_embedding_layers=False)
    write_processor(folder, processor)
    write_text(folder / "gatescope.json", record.to_json())
    history.to_csv(folder / "history.csv", index=False)


def write_apart(out: Path, adapted: "PeftModel", processor: Any, record: AdapterRecord, history: pd.DataFrame) -> None:
    """Write an adapter without an evaluation into the new folder `out`, atomically."""
    with atomic_folder(out) as folder:
        write_adapter(folder, adapted, processor, record, history)
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
    named = _named_base(folder)
    if not named:
        raise InputError(f"{folder}: adapter_config.json names no base model. Give one with --model.")
    return named


def _named_base(folder: Path) -> str | None:
    check_adapter(folder)
    return read_config(folder).get("base_model_name_or_path") or None


def shared_base(
    adapters: Sequence[Path], model: ModelSpec
) -> tuple[ModelSpec, PromptStyle, list[AdapterRecord | None]]:
    """The base model of some adapters, the prompt style that they were trained with, and the record of each.

    What `model` sets takes precedence over the base that the adapters name and over fields of the prompt style. Raises
    InputError if the adapters name different bases or prompt styles, and for folders that hold no complete adapter.
    """
    bases = {base_of(adapter) if model.model is None else _named_base(adapter) for adapter in adapters}
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
    check_folder(folder, "Give the folder of an adapter.")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise InputError(
                f"{folder}: found no {name} there. Give a folder that `finetune` wrote, or another adapter of peft. "
                "An adapter_model.bin is not read, because a pickle can run code: where you trust it, load it with "
                "peft and save it again."
            )
    check_manifest(folder)


def load_adapter(vlm: Vlm, folder: Path) -> "PeftModel":
    """Put a saved adapter into `vlm.model`, in place.

    The `unload` and `disable_adapter` of the result put back the modules and tensors of the base themselves, whatever
    the adapter holds. Raises InputError if the adapter is damaged, is not a LoRA that is supported, or does not fit the
    model; the model is then unchanged.
    """
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer
    from safetensors import safe_open

    check_adapter(folder)
    config = read_config(folder)
    tree = ModuleTree(vlm.model)
    try:
        lora = lora_config_of(config, saved_rank(folder, config))
        with quiet_peft(), base_kept(tree) as report:
            adapted = PeftModel.from_pretrained(
                vlm.model, str(folder), config=lora, torch_device=str(vlm.device), key_mapping=PRESENT_NAMES
            )
        with safe_open(folder / "adapter_model.safetensors", "pt") as saved:
            count = len(saved.keys())
        _refuse_partial(report, count)
        modules = [name for name, module in vlm.model.named_modules() if isinstance(module, BaseTunerLayer)]
    # peft trusts configurations, and wrong ones can cause errors of any kind.
    except BaseException as error:
        tree.restore()
        if isinstance(error, InputError) or not isinstance(error, Exception):
            raise
        raise InputError(f"{folder}: does not fit {vlm.name} ({_reason(error)}). Give --model its own base.") from None
    if unmatched := unmatched_keys(config, modules):
        tree.restore()
        raise InputError(
            f"{folder / 'adapter_config.json'}: {unmatched[0]} matches none of the {len(modules)} adapted modules, "
            f"such as {modules[0]}, so its rank or alpha would not be used. Correct the key, or remove it if it never "
            "had an effect."
        )
    # peft's own methods leave in the base what the adapter wrote there.
    vars(adapted).update(unload=tree.restore, disable_adapter=tree.restored)
    return adapted


def _refuse_partial(report: LoadReport, saved: int) -> None:
    """Raise ValueError unless every saved weight was placed and filled the whole adapter; peft ignores the rest."""
    for names, what in ((report.unplaced, "without a place"), (report.unfilled, "missing from the file")):
        if names:
            raise ValueError(f"{len(names)} weights {what}, for example {names[0]}")
    if report.placed < saved:
        raise ValueError(f"{saved - report.placed} of {saved} weights have the same place as others")


def _reason(error: Exception) -> str:
    """The line of an error that says most; torch begins with a heading that only names the class of the model."""
    heading, *lines = str(error).splitlines() or [""]
    return first_line(ValueError("\n".join(lines)) if lines and heading.endswith(":") else error)


def changes_vision_encoder(adapted: "PeftModel") -> bool:
    """Whether the adapter reaches the vision tower or the projector, so that the arms see different image tokens."""
    encoder = list(vision_encoder_modules(adapted.get_base_model()).values())
    if any(type(part).__module__.startswith("peft.") for module in encoder for part in module.modules()):
        return True

    def tensors() -> set[int]:
        return {id(tensor) for module in encoder for tensor in (*module.parameters(), *module.buffers())}

    now = tensors()
    with adapted.disable_adapter():
        return tensors() != now
