"""The configuration of an adapter from an unknown source: only plain LoRA is accepted.

A peft configuration can name Python modules to import (`megatron_core`), repeat layers of the model
(`layer_replication`) and change the weights of the base when it is loaded (`init_lora_weights`, `bias`,
`modules_to_save`). peft does not undo such changes when the adapter is removed or disabled.
"""

from pathlib import Path
from typing import Any

from interp.runtime.errors import InputError
from interp.storage.json_files import read_object

HARMLESS_FIELDS = frozenset(
    {
        "alpha_pattern",
        "auto_mapping",
        "base_model_name_or_path",
        "exclude_modules",
        "fan_in_fan_out",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "lora_alpha",
        "lora_bias",
        "lora_dropout",
        "peft_type",
        "peft_version",
        "r",
        "rank_pattern",
        "revision",
        "target_modules",
        "task_type",
        "use_dora",
        "use_rslora",
    }
)
"""Fields that may hold any value that peft accepts."""


def read_config(folder: Path) -> dict[str, Any]:
    """The content of the adapter_config.json of an adapter.

    Raises InputError if it is damaged, is not of a LoRA, or sets a field that a plain LoRA does not need.
    """
    from peft import LoraConfig

    path = folder / "adapter_config.json"
    config = read_object(path)
    if config.get("peft_type") != "LORA":
        raise InputError(f"{path}: this adapter is not a LoRA. Only LoRA adapters can be loaded.")
    usual = LoraConfig().to_dict()
    for name, value in config.items():
        if name not in HARMLESS_FIELDS and value and value != usual.get(name):
            raise InputError(
                f"{path}: field {name!r} is set, which a plain LoRA does not need. The adapter is not loaded."
            )
    named = config.get("base_model_name_or_path")
    if named is not None and not isinstance(named, str):
        raise InputError(f"{path}: base_model_name_or_path is not text.")
    return config


def refuse_unsaved_ranks(folder: Path, config: dict[str, Any]) -> None:
    """Raise InputError if an adapter claims a higher rank than its saved weights have: peft would allocate that memory.

    Raises the error of safetensors for damaged weights.
    """
    from safetensors import safe_open

    with safe_open(folder / "adapter_model.safetensors", "pt") as saved:
        slices = [saved.get_slice(name) for name in saved.keys() if "lora_A" in name]  # noqa: SIM118
        most = max((part.get_shape()[0] for part in slices if part.get_shape()), default=0)
    pattern = config.get("rank_pattern") or {}
    ranks = [config.get("r"), *(pattern.values() if isinstance(pattern, dict) else [None])]
    if not all(isinstance(rank, int) and 0 < rank <= most for rank in ranks):
        raise InputError(
            f"{folder / 'adapter_config.json'}: the ranks do not match those of the saved weights, at most {most}."
        )
