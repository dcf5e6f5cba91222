"""The configuration of an adapter from an unknown source.

Fields are judged by what they do once the adapter is saved. Some describe only its training; some say how its weights
are applied, which peft does; and some do what this program cannot undo or compute: they repeat layers of the model,
change the weights of the base when they are loaded, or import a Python module (`megatron_config`).
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.runtime.errors import InputError
from interp.storage.json_files import read_object
from interp.storage.safetensors_file import opened_tensors

if TYPE_CHECKING:
    from peft import LoraConfig

APPLIED = (
    "alpha_pattern",
    "base_model_name_or_path",
    "bias",
    "ensure_weight_tying",
    "exclude_modules",
    "fan_in_fan_out",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_bias",
    "modules_to_save",
    "r",
    "rank_pattern",
    "target_modules",
    "target_parameters",
    "trainable_token_indices",
    "use_dora",
    "use_rslora",
)
"""Fields that say how the saved weights are applied; they are passed to peft."""
OF_TRAINING = frozenset(
    {
        "auto_mapping",
        "corda_config",
        "eva_config",
        "inference_mode",
        "init_lora_weights",
        "loftq_config",
        "lora_dropout",
        "lora_ga_config",
        "megatron_core",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "task_type",
        "velora_config",
    }
)
"""Fields without an effect on a saved adapter; `init_lora_weights` has none for the values of PLAIN_INITS."""
REFUSED = {
    "alora_invocation_tokens": "makes the adapter act only after certain tokens (aLoRA)",
    "arrow_config": "mixes several adapters (Arrow)",
    "kasa_config": "changes the weights of the base (KaSA)",
    "layer_replication": "repeats layers of the model",
    "megatron_config": "imports a Python module",
    "monteclora_config": "adds random numbers to the weights (MonteCLoRA)",
    "use_bdlora": "divides the weights into blocks (BD-LoRA)",
    "use_qalora": "pools the inputs of quantized layers (QALoRA)",
}
"""Field that changes what the adapter does in a way that is not supported -> what it does."""
PLAIN_INITS = frozenset({"eva", "gaussian", "mica", "orthogonal"})
"""Initial weights, beside true and false, that training has replaced in the saved file."""
RESIDUAL_INITS = frozenset({"corda", "lora_ga", "olora", "pissa"})
"""Initial weights that were subtracted from those of the base, so that the saved update does not fit the base."""
MERGE = (
    "Where it loads, merge it into its base with `merge_and_unload()`, save model and processor in a folder with "
    "`save_pretrained`, and give that folder in place of the adapter."
)


def read_config(folder: Path) -> dict[str, Any]:
    """The content of the adapter_config.json of an adapter.

    Raises InputError if it is damaged, is not of a LoRA, or sets a field whose effect is not supported.
    """
    path = folder / "adapter_config.json"
    config = read_object(path)
    if config.get("peft_type") != "LORA":
        raise InputError(
            f"{path}: this adapter is not a LoRA: found peft_type {str(config.get('peft_type'))[:40]!r}, expected "
            f"'LORA'. {MERGE}"
        )
    for name, value in config.items():
        if value and name in REFUSED:
            raise InputError(f"{path}: field {name!r} {REFUSED[name]}, which is not supported. {MERGE}")
    _check_init(path, config.get("init_lora_weights"))
    for name, value in unknown_fields(config).items():
        if not isinstance(value, int | float) or value is True:
            raise InputError(
                f"{path}: field {name!r} is not known to the installed version of peft and set to {str(value)[:80]}, "
                f"so what it does is unknown{_written_by(config)}. Install that version of peft, or remove the field "
                f"if it has no effect on the saved adapter. {MERGE}"
            )
    named = config.get("base_model_name_or_path")
    if named is not None and not isinstance(named, str):
        raise InputError(f"{path}: base_model_name_or_path is not text.")
    return config


def _check_init(path: Path, init: Any) -> None:
    if init is None or isinstance(init, bool):
        return
    kind = str(init).lower()
    if kind in PLAIN_INITS:
        return
    if any(kind.startswith(residual) for residual in RESIDUAL_INITS):
        raise InputError(
            f"{path}: field 'init_lora_weights' is {str(init)[:80]!r}, so the saved update fits a changed base and not "
            "the original one. Convert it where it was trained: `save_pretrained(folder, "
            f"path_initial_model_for_weight_conversion=...)` of peft writes an equal plain LoRA. {MERGE}"
        )
    raise InputError(
        f"{path}: field 'init_lora_weights' is {str(init)[:80]!r}, which may change the weights of the base; expected "
        f"true, false or one of {', '.join(sorted(PLAIN_INITS))}. {MERGE}"
    )


def _written_by(config: dict[str, Any]) -> str:
    version = config.get("peft_version")
    return f" (the file was written by peft {version[:20]})" if isinstance(version, str) else ""


def unknown_fields(config: dict[str, Any]) -> dict[str, Any]:
    """The fields that are set to something, and that neither the installed peft nor this module knows."""
    known = {*_fields_of_peft(), *OF_TRAINING, *REFUSED}
    return {name: value for name, value in config.items() if name not in known and value}


def _fields_of_peft() -> set[str]:
    from peft import LoraConfig

    return set(LoraConfig().to_dict()) & set(APPLIED)


def lora_config_of(config: dict[str, Any], largest_rank: int) -> "LoraConfig":
    """The configuration of peft that applies the saved weights of an adapter, without what only its training needed.

    Ranks are limited to `largest_rank`, that of the saved weights, since peft allocates memory for those of the
    configuration before it reads any weight. Raises any error for values of a wrong type.
    """
    from peft import LoraConfig

    # What is null is left to peft's default.
    given = {name: config[name] for name in _fields_of_peft() if config.get(name) is not None}
    given["r"] = min(given["r"], largest_rank)
    given["rank_pattern"] = {key: min(rank, largest_rank) for key, rank in (given.get("rank_pattern") or {}).items()}
    return LoraConfig(**given, inference_mode=True, init_lora_weights=True)


def saved_rank(folder: Path, config: dict[str, Any]) -> int:
    """The largest rank of the saved weights.

    Raises InputError for damaged weights, and if the configuration gives a module another rank than its weights have.
    """
    path = folder / "adapter_config.json"
    pattern = config.get("rank_pattern") or {}
    ranks = [config.get("r"), *(pattern.values() if isinstance(pattern, dict) else [None])]
    if not all(isinstance(rank, int) and not isinstance(rank, bool) and rank > 0 for rank in ranks):
        raise InputError(f"{path}: 'r' and the values of 'rank_pattern' must be whole numbers above zero.")
    saved: dict[str, int] = {}
    with opened_tensors(folder / "adapter_model.safetensors") as weights:
        for name in weights.keys():  # noqa: SIM118
            module, found, _ = name.partition(".lora_A")
            if not found:
                module, found, _ = name.partition(".lora_embedding_A")
            shape = weights.get_slice(name).get_shape() if found else []
            if shape:
                saved[module] = shape[0]
    # The rows of a stack of experts are those of all experts together.
    for module, rank in {} if config.get("target_parameters") else saved.items():
        # A key may begin with ^, and peft compares it with the path in the base.
        key = next((key for key in pattern if matches(key, module.removeprefix("base_model.model."))), None)
        wanted = config["r"] if key is None else pattern[key]
        if rank != wanted:
            where = "'r'" if key is None else f"'rank_pattern' for {key!r}"
            raise InputError(
                f"{path}: the ranks do not match those of the saved weights: {where} is {wanted}, but {module} has "
                f"rank {rank}. Copy both files again from where they were made."
            )
    return max(saved.values(), default=1)


def matches(key: str, module: str) -> bool:
    """Whether a key of `rank_pattern` or `alpha_pattern` means the module of this path, as peft decides."""
    try:
        return re.match(rf"(.*\.)?({key})$", module) is not None
    except re.error:
        return False


def unmatched_keys(config: dict[str, Any], modules: Iterable[str]) -> list[str]:
    """The keys of `rank_pattern` and `alpha_pattern` that mean none of the adapted modules, after their field."""
    adapted = list(modules)
    return [
        f"{field} {key!r}"
        for field in ("rank_pattern", "alpha_pattern")
        for key in config.get(field) or {}
        if not any(matches(key, module) for module in adapted)
    ]
