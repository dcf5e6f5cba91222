"""Reading the folder of one SAE, in Gemma Scope 2's or sae-lens's layout, and checking that it fits model and layer."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.runtime.errors import InputError
from interp.storage.checksums import joined_digest, tensor_digests
from interp.storage.json_files import read_object

PARAMETERS = ("w_enc", "w_dec", "b_enc", "b_dec", "threshold")
"""Our names of the tensors of an SAE, which are Gemma Scope 2's."""
STORED_DTYPES = ("F32", "BF16", "F16", "F64")
"""Number formats in which an SAE may be stored, as safetensors names them."""
LENS_NAMES = {name: {"w_enc": "W_enc", "w_dec": "W_dec"}.get(name, name) for name in PARAMETERS}
"""Our name of every parameter -> sae-lens's name."""
_OUR_NAMES = {lens: ours for ours, lens in LENS_NAMES.items()}


def check_sae(folder: Path, layer: int, d_model: int) -> int:
    """Check an SAE without loading it, and return its number of features.

    Raises InputError if a tensor is missing or has a wrong shape or dtype, or if the SAE was trained for another width,
    layer or place than the residual stream after `layer`.
    """
    from safetensors import SafetensorError, safe_open

    path = weights_file(folder)
    try:
        with safe_open(path, "pt") as file:
            slices = {_OUR_NAMES.get(name, name): file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            kinds = {name: str(part.get_dtype()) for name, part in slices.items()}
            names = len(file.keys())
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a complete safetensors file ({error}). Download it again.") from None
    if len(slices) < names:
        raise InputError(f"{path}: holds a matrix under both of its names. Remove one of them.")
    needed = [name for name in PARAMETERS if name != "threshold" or _has_threshold(folder)]
    missing = [name for name in needed if name not in shapes]
    if missing:
        raise InputError(f"{path}: found {sorted(shapes)}, expected {needed}; missing {missing}.")
    width, d_sae = shapes["w_enc"] if len(shapes["w_enc"]) == 2 else (0, 0)
    if width != d_model:
        raise InputError(
            f"{path}: made for a residual stream of width {width}, but the model's width is {d_model}. "
            "Give --saes the SAEs of this model's size."
        )
    expected = {"w_enc": (d_model, d_sae), "w_dec": (d_sae, d_model), "b_enc": (d_sae,), "b_dec": (d_model,)}
    expected["threshold"] = (d_sae,)
    for name in needed:
        if shapes[name] != expected[name]:
            raise InputError(f"{path}: {name} has shape {list(shapes[name])}, expected {list(expected[name])}.")
        if kinds[name] not in STORED_DTYPES:
            raise InputError(f"{path}: {name} holds {kinds[name]}, expected one of {', '.join(STORED_DTYPES)}.")
    if not d_sae:
        raise InputError(f"{path}: has no features.")
    _check_hook(folder, layer)
    return d_sae


def sae_digest(folder: Path) -> bytes:
    """Digest of an SAE's biases and thresholds, which identify its training; the matrices may be hundreds of GB.

    Raises InputError if the file is missing or incomplete.
    """
    from safetensors import SafetensorError, safe_open

    path = weights_file(folder)
    try:
        with safe_open(path, "pt") as file:
            small = [name for name in sorted(file.keys()) if len(file.get_slice(name).get_shape()) == 1]
            return joined_digest(tensor_digests(file.get_tensor(name) for name in small))
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a complete safetensors file ({error}). Download it again.") from None


def read_parameters(folder: Path, device: torch.device | str) -> dict[str, Tensor]:
    """The tensors of an SAE on `device`, by our names and in their stored dtypes; `check_sae` must have passed.

    ReLU SAEs get thresholds of zero, which makes them JumpReLU SAEs. The decoder bias that some sae-lens SAEs subtract
    from their input is folded into the encoder bias.
    """
    from safetensors.torch import load_file

    loaded = load_file(weights_file(folder), str(device))
    tensors = {_OUR_NAMES.get(name, name): tensor for name, tensor in loaded.items()}
    tensors.setdefault("threshold", torch.zeros_like(tensors["b_enc"]))
    if _lens_config(folder).get("apply_b_dec_to_input", False):
        tensors["b_enc"] = tensors["b_enc"].float() - tensors["b_dec"].float() @ tensors["w_enc"].float()
    return {name: tensors[name] for name in PARAMETERS}


def weights_file(folder: Path) -> Path:
    """The safetensors file in an SAE folder. Raises InputError if there is none."""
    for name in ("params.safetensors", "sae_weights.safetensors"):
        if (folder / name).is_file():
            return folder / name
    raise InputError(
        f"{folder / 'params.safetensors'}: not found. Every SAE folder needs params.safetensors (Gemma Scope 2) or "
        "sae_weights.safetensors (sae-lens); pickle files are refused."
    )


def _lens_config(folder: Path) -> dict[str, Any]:
    """sae-lens's configuration; empty for a Gemma Scope 2 folder."""
    path = folder / "cfg.json"
    return read_object(path) if path.is_file() else {}


def _has_threshold(folder: Path) -> bool:
    return _lens_config(folder).get("architecture", "jumprelu") == "jumprelu"


def sae_lens_layer(folder: Path) -> int:
    """The layer of a sae-lens folder. Raises InputError if its configuration does not name the output of a layer."""
    config = _lens_config(folder)
    metadata = config.get("metadata")
    named = metadata.get("hook_name") if isinstance(metadata, dict) else None
    hook = str(named or config.get("hook_name") or "")
    match = re.fullmatch(r"(?:blocks\.(\d{1,4})\.hook_resid_post|model\.layers\.(\d{1,4})(?:\.output)?)", hook)
    if not match:
        raise InputError(
            f"{folder / 'cfg.json'}: found hook {hook or 'none'!r}, expected blocks.L.hook_resid_post. "
            "Only SAEs of the residual stream after a layer can be used."
        )
    return int(match.group(1) or match.group(2))


def _check_hook(folder: Path, layer: int) -> None:
    lens = _lens_config(folder)
    if lens:
        kind, norm = lens.get("architecture", "standard"), lens.get("normalize_activations", "none")
        if kind not in ("jumprelu", "standard") or norm not in ("none", None) or sae_lens_layer(folder) != layer:
            raise InputError(
                f"{folder / 'cfg.json'}: found architecture {kind!r}, normalize_activations {norm!r}, layer "
                f"{sae_lens_layer(folder)}; expected jumprelu or standard, none, layer {layer}. "
                "Fold the normalization with sae-lens's fold_activation_norm_scaling_factor and save it again."
            )
        return
    path = folder / "config.json"
    config = read_object(path) if path.is_file() else {}
    hook = config.get("hf_hook_point_in", f"model.layers.{layer}.output")
    if config.get("architecture", "jump_relu") != "jump_relu" or hook != f"model.layers.{layer}.output":
        raise InputError(
            f"{path}: found architecture {config.get('architecture')!r} at {hook!r}, expected 'jump_relu' at "
            f"'model.layers.{layer}.output' (resid_post of the folder's layer)."
        )
