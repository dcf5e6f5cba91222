"""Checking that the files of a model hold exactly its weights.

transformers fills weights that it does not find with random numbers, and ignores those that it does not know.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from interp.runtime.errors import InputError
from interp.storage.json_files import read_object
from interp.storage.safetensors_file import opened_tensors

WRAPPERS = {
    "base_model.model.": "peft",
    "_orig_mod.": "torch.compile",
    "_fsdp_wrapped_module.": "FSDP",
    "_forward_module.": "Lightning",
    "_checkpoint_wrapped_module.": "activation checkpointing",
    "module.": "DataParallel",
}
"""What a training library puts into the names of weights -> the library."""
_ADAPTER = re.compile(r"\.(lora_|base_layer\.|modules_to_save\.|original_module\.)")
_QUANTIZED = re.compile(r"\.(absmax|nested_absmax|quant_map|quant_state\.\S+|SCB|qweight|qzeros|scales|weight_packed)$")
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_HARMLESS = re.compile(
    r"rotary_emb\.(\w+_)?(original_)?inv_freq$|(^|\.)position_ids$|vision_tower\.(vision_model\.)?head\."
)
"""Weights of older versions that are computed today, and SigLIP's pooling head, which Gemma 3 does not use."""


def refuse_two_models(folder: Path) -> None:
    """Raise InputError if a model folder also holds an adapter, or two sets of weights.

    transformers would apply the adapter to the weights, which often contain it already, and of two sets it would take
    `model.safetensors` without a word.
    """
    if (folder / "adapter_config.json").is_file():
        raise InputError(
            f"{folder / 'adapter_config.json'}: an adapter beside the weights of a model, which would be applied to "
            "them. If the adapter is merged into these weights, remove adapter_config.json and adapter_model.* from "
            "the folder (download a hub repository to a folder first). If it is not, move these two files to a folder "
            "of their own and give that as the adapter."
        )
    index = folder / "model.safetensors.index.json"
    if index.is_file() and (folder / "model.safetensors").is_file():
        names = set((read_object(index).get("weight_map") or {}).values())
        if names != {"model.safetensors"}:
            raise InputError(
                f"{folder}: found both model.safetensors and the parts that {index.name} lists, and they may differ. "
                "Remove the older of the two."
            )


def check_files(folder: Path) -> None:
    """Raise InputError if a file of weights in `folder` is cut off or no safetensors file; only headers are read."""
    index = folder / "model.safetensors.index.json"
    names = set(read_object(index)["weight_map"].values()) if index.is_file() else {"model.safetensors"}
    for name in sorted(names):
        with opened_tensors(folder / name):
            pass


def check_weights(folder: Path, report: Mapping[str, Collection[Any]]) -> None:
    """Raise InputError unless the files in `folder` hold every weight of the model and no other.

    `report` is what `from_pretrained(..., output_loading_info=True)` returns. A head that is tied to the embeddings
    need not be in the files.
    """
    # A tied head is last, because it is missing whenever the embeddings are.
    missing = sorted(report["missing_keys"], key=lambda name: (name.startswith("lm_head."), name))
    unknown = sorted(name for name in report["unexpected_keys"] if not _HARMLESS.search(name))
    mismatched = sorted(report["mismatched_keys"], key=lambda found: found[0])
    found = []
    if missing:
        found.append(f"{len(missing)} weights of the model are not in the files, among them {missing[0]}")
    if unknown:
        found.append(f"{len(unknown)} weights in the files are not the model's, among them {unknown[0]}")
    if mismatched:
        name, stored, expected = mismatched[0]
        shapes = f"found {list(stored)}, expected {list(expected)}"
        found.append(f"{len(mismatched)} weights have another shape than config.json says, among them {name}: {shapes}")
    if found:
        raise InputError(f"{folder}: {'; '.join(found)}. {_cause(missing, unknown)}")


def _cause(missing: Collection[str], unknown: Collection[str]) -> str:
    """What the names suggest, and what to do about it."""
    if any(_ADAPTER.search(name) for name in unknown):
        return (
            "The names are those of a model with an adapter inside (peft). Merge it with merge_and_unload() and save "
            "the result, or give the base as the model and the adapter as an adapter."
        )
    for part, library in WRAPPERS.items():
        if any(name.startswith(part) or f".{part}" in name for name in unknown):
            return (
                f"The names contain {part!r}, which {library} adds. Remove it from the names, or save the model inside "
                "with save_pretrained."
            )
    if any(_QUANTIZED.search(name) for name in unknown):
        return "The weights are quantized. Give the model in bfloat16 or float32."
    prefix = _common_prefix(missing, unknown)
    if prefix:
        return f"The names have the prefix {prefix!r}. Remove it, or save the model itself with save_pretrained."
    forgotten, surplus = _layers(missing), _layers(unknown)
    if forgotten and not unknown:
        return (
            f"The weights of {forgotten} are incomplete: a file was forgotten, or config.json is of a deeper model. "
            "Copy or save the model again."
        )
    vision = [name for name in missing if "vision_tower." in name or "multi_modal_projector." in name]
    if vision and not any("vision_tower." in name for name in unknown) and _text_only(missing, unknown):
        return (
            "The vision tower or the projector is missing, as in a merge of the text model alone. Merge into "
            "AutoModelForImageTextToText, or copy the missing weights from the base."
        )
    if missing == ["lm_head.weight"]:
        return "If the head is tied to the embeddings, set tie_word_embeddings to true in config.json."
    if surplus and not missing:
        return f"The files hold weights of {surplus}, which config.json does not have. Copy config.json of this model."
    return "config.json and the weights are not of the same model, or a file is missing. Copy or save the model again."


def _common_prefix(missing: Collection[str], unknown: Collection[str]) -> str:
    """The text before the model's names in the names of the files; empty if it is not the same for all."""
    wanted = sorted(missing, key=len, reverse=True)
    prefixes = {next((name.removesuffix(end) for end in wanted if name.endswith(f".{end}")), "") for name in unknown}
    return prefixes.pop() if len(prefixes) == 1 else ""


def _text_only(missing: Collection[str], unknown: Collection[str]) -> bool:
    """Whether all that is missing is for images, or the text model has the names that it has when it is alone."""
    alone = all(name.removeprefix("model.").startswith(("layers.", "embed_tokens.", "norm.")) for name in unknown)
    return alone if unknown else not any("language_model." in name for name in missing)


def _layers(names: Collection[str]) -> str:
    """The layers that some weights belong to, in words; empty if a weight belongs to none."""
    found: dict[str, set[int]] = {}
    for name in names:
        match = _LAYER.search(name)
        if match is None:
            return ""
        found.setdefault("vision tower" if "vision_tower" in name else "language model", set()).add(int(match[1]))
    return " and ".join(f"layers {', '.join(map(str, sorted(n)))} of the {place}" for place, n in found.items())
