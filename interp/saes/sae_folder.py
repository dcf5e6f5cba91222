"""Reading the folder of one SAE, in Gemma Scope 2's or sae-lens's layout, and checking that it fits model and layer."""

import re
from pathlib import Path

import torch
from torch import Tensor

from interp.runtime.async_copies import copy_to_gpu
from interp.runtime.errors import InputError
from interp.saes.sae_lens_config import CONFIG, TENSORS, LensConfig, read_lens_config
from interp.storage.checksums import joined_digest, tensor_digests
from interp.storage.json_files import read_object
from interp.storage.safetensors_file import opened_tensors

PARAMETERS = ("w_enc", "w_dec", "b_enc", "b_dec", "threshold")
"""Our names of the tensors of an SAE, which are Gemma Scope 2's."""
STORED_DTYPES = ("F32", "BF16", "F16", "F64")
"""Number formats in which an SAE may be stored, as safetensors names them."""
LENS_NAMES = {name: {"w_enc": "W_enc", "w_dec": "W_dec"}.get(name, name) for name in PARAMETERS}
"""Our name of every parameter -> sae-lens's name."""
_OUR_NAMES = {lens: ours for ours, lens in LENS_NAMES.items()}
_SCALING = "scaling_factor"
"""A tensor of old sae-lens versions, which sae-lens ignores where it holds only ones."""
_SKIP = "affine_skip_connection"
"""The tensor by which a transcoder differs from an SAE in Gemma Scope 2's layout."""
_OTHER_PLACES = re.compile(r"attn_out|mlp_out|transcoder|clt|crosscoder")
"""Folders of Gemma Scope 2 whose SAEs do not read the residual stream."""


def check_sae(folder: Path, layer: int, d_model: int) -> int:
    """Check an SAE without loading it, and return its number of features.

    Raises InputError if a tensor is missing, not understood, or of a wrong shape or dtype, if the SAE was trained for
    another width, layer or place than the residual stream after `layer`, and as
    `interp.saes.sae_lens_config.read_lens_config`.
    """
    path = weights_file(folder)
    lens = _lens_config(folder)
    with opened_tensors(path) as file:
        slices = {_OUR_NAMES.get(name, name): file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
        kinds = {name: str(part.get_dtype()) for name, part in slices.items()}
        names = len(file.keys())
        scaled = _SCALING in shapes and not bool((file.get_tensor(_SCALING) == 1).all())
    if len(slices) < names:
        raise InputError(f"{path}: holds a matrix under both of its names. Remove one of them.")
    needed = PARAMETERS if lens is None else tuple(_OUR_NAMES.get(name, name) for name in TENSORS[lens.architecture])
    missing = [name for name in needed if name not in shapes]
    # sae-lens too refuses tensors that it does not know in its own layout, and ignores them in Gemma Scope 2's.
    extra = {_SKIP} & set(shapes) if lens is None else set(shapes) - {*needed, _SCALING}
    if missing or extra:
        wrong = f"missing {missing}" if missing else f"not understood {sorted(extra)}"
        raise InputError(f"{path}: found {sorted(shapes)}, expected {sorted(needed)}; {wrong}.")
    if scaled:
        raise InputError(f"{path}: {_SCALING} holds other values than 1, which sae-lens refuses too. Fold them first.")
    width, d_sae = shapes["w_enc"] if len(shapes["w_enc"]) == 2 else (0, 0)
    if width != d_model:
        raise InputError(
            f"{path}: made for a residual stream of width {width}, but the model's width is {d_model}. "
            "Give --saes the SAEs of this model's size."
        )
    expected = {"w_enc": (d_model, d_sae), "w_dec": (d_sae, d_model), "b_dec": (d_model,)}
    for name in needed:
        if shapes[name] != expected.get(name, (d_sae,)):
            shape = list(expected.get(name, (d_sae,)))
            raise InputError(f"{path}: {name} has shape {list(shapes[name])}, expected {shape}.")
        if kinds[name] not in STORED_DTYPES:
            raise InputError(f"{path}: {name} holds {kinds[name]}, expected one of {', '.join(STORED_DTYPES)}.")
    if not d_sae:
        raise InputError(f"{path}: has no features.")
    if lens is None:
        _check_scope_config(folder, layer)
    elif lens.layer != layer or (lens.d_in, lens.d_sae) != (d_model, d_sae):
        raise InputError(
            f"{folder / CONFIG}: found {lens.d_in} x {lens.d_sae} at layer {lens.layer}; expected {d_model} x {d_sae} "
            f"at layer {layer}."
        )
    return d_sae


def sae_digest(folder: Path) -> bytes:
    """Digest of an SAE's biases and thresholds, which identify its training; the matrices may be hundreds of GB.

    Raises InputError if the file is missing or incomplete.
    """
    with opened_tensors(weights_file(folder)) as file:
        small = [name for name in sorted(file.keys()) if len(file.get_slice(name).get_shape()) == 1]
        return joined_digest(tensor_digests(file.get_tensor(name) for name in small))


def read_parameters(folder: Path, device: torch.device | str) -> dict[str, Tensor]:
    """The tensors of an SAE on `device`, by our names and in their stored dtypes; `check_sae` must have passed."""
    from safetensors.torch import load_file

    loaded = load_file(weights_file(folder))
    if torch.device(device).type == "cuda":
        # load_file's own copies would hold up what is queued on the GPU.
        loaded = dict(zip(loaded, copy_to_gpu(list(loaded.values()), torch.device(device)), strict=True))
    lens = _lens_config(folder)
    if lens is not None:
        loaded = _as_jumprelu(loaded, lens)
    return {name: loaded[name] if name in loaded else loaded[LENS_NAMES[name]] for name in PARAMETERS}


def _as_jumprelu(tensors: dict[str, Tensor], lens: LensConfig) -> dict[str, Tensor]:
    """The tensors of the JumpReLU SAE that has the same activations and the same reconstruction.

    A ReLU SAE has thresholds of zero. The magnitude of a gated SAE is relu(z) with z = exp(r_mag) (x W) + b_mag, and
    its gate x W + b_gate > 0 is z > b_mag - exp(r_mag) b_gate (Rajamanoharan et al., arXiv 2404.16014, appendix). A
    decoder bias that is subtracted from the input becomes part of the encoder bias.
    """
    known = {_OUR_NAMES.get(name, name): tensor for name, tensor in tensors.items()}
    if lens.architecture == "gated":
        scale = known["r_mag"].float().exp()
        known["w_enc"] = known["w_enc"].float() * scale
        known["b_enc"] = known["b_mag"].float()
        known["threshold"] = known["b_enc"] - scale * known["b_gate"].float()
    known.setdefault("threshold", torch.zeros_like(known["b_enc"]))
    if lens.subtract_b_dec:
        known["b_enc"] = known["b_enc"].float() - known["b_dec"].float() @ known["w_enc"].float()
    return known


def weights_file(folder: Path) -> Path:
    """The safetensors file in an SAE folder, that of sae-lens if there is a cfg.json. Raises InputError if absent."""
    scope, lens = folder / "params.safetensors", folder / "sae_weights.safetensors"
    path = lens if (folder / CONFIG).is_file() else scope
    if path.is_file():
        return path
    if lens.is_file():
        raise InputError(f"{folder / CONFIG}: not found. It says how sae-lens computes with {lens.name}; copy it too.")
    raise InputError(
        f"{path}: not found. Every SAE folder needs params.safetensors (Gemma Scope 2) or cfg.json and "
        "sae_weights.safetensors (sae-lens); pickle files are refused."
    )


def _lens_config(folder: Path) -> LensConfig | None:
    """sae-lens's configuration; None for a Gemma Scope 2 folder."""
    return read_lens_config(folder) if (folder / CONFIG).is_file() else None


def _check_scope_config(folder: Path, layer: int) -> None:
    """Raise InputError unless Gemma Scope 2's configuration, if there is one, is of an SAE of the layer's output."""
    path = folder / "config.json"
    if not path.is_file():
        if _OTHER_PLACES.search(folder.resolve().parent.name):
            raise InputError(f"{path}: not found, and the SAEs of {folder.resolve().parent} are not of resid_post.")
        return
    config = read_object(path)
    hook = config.get("hf_hook_point_in", f"model.layers.{layer}.output")
    if config.get("architecture", "jump_relu") != "jump_relu" or hook != f"model.layers.{layer}.output":
        raise InputError(
            f"{path}: found architecture {config.get('architecture')!r} at {hook!r}, expected 'jump_relu' at "
            f"'model.layers.{layer}.output' (resid_post of the folder's layer)."
        )
