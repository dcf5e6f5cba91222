"""What a reader of an adapter's numbers must know: it was trained on another base, or with an unknown prompt."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from finetune.lora.foreign_config import read_config, unknown_fields
from interp.model.prompts import DEFAULT_STYLE
from interp.model.vlm import Vlm
from interp.runtime.errors import InputError
from interp.schemas.adapter import AdapterRecord
from interp.storage.hub import locate
from interp.storage.manifest import read_manifest


def adapter_warnings(
    vlm: Vlm, base: str, base_digest: Callable[[], str], folder: Path, name: str, record: AdapterRecord | None
) -> list[str]:
    """What to know about the saved adapter `name` on the base `vlm`, which was given as `base`, one sentence each.

    `base_digest` gives the fingerprint of the base's weights; it is called only if the folder records one.
    """
    config = read_config(folder)
    said = _other_base(vlm, base, base_digest, folder, name, config, record)
    if record is not None and record.model.load_in != vlm.load_in:
        said.append(
            f"{name} was trained on a base with {_precision(record.model.load_in)}, but is evaluated on one with "
            f"{_precision(vlm.load_in)}."
        )
    if record is None:
        style = "the plain style" if vlm.style == DEFAULT_STYLE else "the style of this evaluation"
        said.append(
            f"{name} has no record of its training (gatescope.json), so it is unknown with which prompt it was "
            f"trained; it is asked in {style}."
        )
    if unknown := unknown_fields(config):
        fields = ", ".join(f"{field} = {value!s:.40}" for field, value in unknown.items())
        said.append(f"The installed version of peft does not know the following settings of {name}: {fields}.")
    return said


def _other_base(
    vlm: Vlm,
    base: str,
    base_digest: Callable[[], str],
    folder: Path,
    name: str,
    config: dict[str, Any],
    record: AdapterRecord | None,
) -> list[str]:
    manifest = read_manifest(folder)
    digest = manifest.inputs.get("base_weights") if manifest is not None else None
    # A digest is one of the weights in the arithmetic of the training.
    if digest is not None and record is not None and _same_arithmetic(vlm, record):
        if digest == base_digest():
            return []
        return [
            f"{name} was trained on another base: the weights of {vlm.name} are not those that its folder records "
            f"({record.model.id})."
        ]
    recorded = config.get("base_model_name_or_path")
    if not recorded:
        return [f"{name} does not say on which base it was trained, so it is unknown whether that was {vlm.name}."]
    if not _same_source(recorded, base):
        shown = recorded if vlm.name != Path(recorded).name else f"{recorded}, which may be a copy of it"
        return [f"{name} records another base, {shown}, but is evaluated on {vlm.name}."]
    revision = record.model.revision if record is not None else config.get("revision")
    if revision and vlm.revision and revision != vlm.revision and not str(vlm.revision).startswith(str(revision)):
        return [f"{name} was trained on revision {revision} of {vlm.name}, but is evaluated on {vlm.revision}."]
    return []


def _same_arithmetic(vlm: Vlm, record: AdapterRecord) -> bool:
    """Whether a base computes with numbers as that of the training did."""
    return (record.model.dtype, record.model.load_in) == (vlm.arithmetic, vlm.load_in)


def _precision(load_in: str | None) -> str:
    return "unquantized weights" if load_in is None else f"weights quantized to {load_in}"


def _same_source(recorded: str, given: str) -> bool:
    """Whether two names of a model, folders or hub ids, are of the same files."""
    if recorded == given:
        return True
    try:
        return Path(recorded).exists() and locate(recorded).folder.resolve() == locate(given).folder.resolve()
    except InputError:
        return False
