"""The configuration of an adapter that may come from anywhere: a plain LoRA, and nothing that would do more than that.

peft's configurations can name modules of Python to import (`megatron_core`), repeat the model's layers
(`layer_replication`) and change the base's own weights when they are loaded (`init_lora_weights`, `bias`,
`modules_to_save`), which peft does not undo when the adapter is taken out or switched off.
"""

from pathlib import Path
from typing import Any

from interp.runtime.errors import InputError
from interp.storage.json_files import read_object

PLAIN = frozenset(
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
"""Fields that may hold anything that peft accepts."""


def read_config(folder: Path) -> dict[str, Any]:
    """The content of an adapter's adapter_config.json.

    Raises InputError if it is damaged, of another kind than LoRA, or asks for more than a plain LoRA does.
    """
    from peft import LoraConfig

    path = folder / "adapter_config.json"
    config = read_object(path)
    if config.get("peft_type") != "LORA":
        raise InputError(f"{path}: found an adapter that is no LoRA. Only LoRA adapters can be loaded.")
    usual = LoraConfig().to_dict()
    for name, value in config.items():
        if name not in PLAIN and value and value != usual.get(name):
            raise InputError(f"{path}: field {name!r} is set, which a plain LoRA has no use for. It is not loaded.")
    named = config.get("base_model_name_or_path")
    if named is not None and not isinstance(named, str):
        raise InputError(f"{path}: base_model_name_or_path is no text.")
    return config


def refuse_unsaved_ranks(folder: Path, config: dict[str, Any]) -> None:
    """Raise InputError if an adapter claims a rank that none of its saved weights has, for which memory would be taken.

    Raises safetensors' own error for damaged weights.
    """
    from safetensors import safe_open

    with safe_open(folder / "adapter_model.safetensors", "pt") as saved:
        slices = [saved.get_slice(name) for name in saved.keys() if "lora_A" in name]  # noqa: SIM118
        most = max((part.get_shape()[0] for part in slices if part.get_shape()), default=0)
    pattern = config.get("rank_pattern") or {}
    ranks = [config.get("r"), *(pattern.values() if isinstance(pattern, dict) else [None])]
    if not all(isinstance(rank, int) and 0 < rank <= most for rank in ranks):
        raise InputError(f"{folder / 'adapter_config.json'}: ranks are not those of the saved weights, at most {most}.")
