"""Sparse autoencoders (JumpReLU) of the residual stream, one a layer, in Gemma Scope 2's folder layout."""

import json
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from interp.runtime.errors import InputError
from interp.storage.checksums import joined_digest, tensor_digests
from interp.storage.json_files import read_object

if TYPE_CHECKING:
    from sae_lens import JumpReLUSAE

log = logging.getLogger(__name__)
PARAMETERS = ("w_enc", "w_dec", "b_enc", "b_dec", "threshold")
STORED_DTYPES = ("F32", "BF16", "F16", "F64")
"""Of numbers that an SAE may be stored in, as safetensors calls them."""


class Sae(NamedTuple):
    """A JumpReLU sparse autoencoder of resid_post at one layer (Rajamanoharan et al., arXiv 2407.14435)."""

    layer: int
    """The decoder layer whose output it reads."""
    id: str
    """Folder name, e.g. layer_17_width_16k_l0_medium."""
    w_enc: Tensor
    """[d_model, d_sae]."""
    b_enc: Tensor
    """[d_sae]."""
    w_dec: Tensor
    """[d_sae, d_model]: row i is the direction that feature i writes."""
    b_dec: Tensor
    """[d_model]."""
    threshold: Tensor
    """[d_sae]: a feature is silent unless its pre-activation exceeds this."""

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return self.w_enc.shape[1]

    def encode(self, x: Tensor, features: Tensor | None = None) -> Tensor:
        """Residuals [..., d_model] -> activations f = z * 1[z > threshold], z = x W_enc + b_enc, float32 [..., d_sae].

        With `features` int64 [k], those alone: [..., k].
        """
        w, b, threshold = self.w_enc, self.b_enc, self.threshold
        if features is not None:
            w, b, threshold = w[:, features], b[features], threshold[features]
        z = (x.to(w.dtype) @ w).float() + b
        return torch.relu(z) * (z > threshold)

    def decode(self, f: Tensor) -> Tensor:
        """Activations [..., d_sae] -> reconstructed residuals [..., d_model]."""
        return (f.to(self.w_dec.dtype) @ self.w_dec).float() + self.b_dec

    def to_sae_lens(self) -> "JumpReLUSAE":
        """The same SAE as sae-lens's own, for `Vlm.bridge`: its matrices are these tensors, the rest in their dtype."""
        from sae_lens import JumpReLUSAE, JumpReLUSAEConfig
        from sae_lens.saes.sae import SAEMetadata

        dtype = self.w_enc.dtype
        config = JumpReLUSAEConfig(
            d_in=len(self.b_dec),
            d_sae=self.d_sae,
            apply_b_dec_to_input=False,
            dtype=str(dtype).removeprefix("torch."),
            device=str(self.w_enc.device),
            metadata=SAEMetadata(
                hook_name=f"blocks.{self.layer}.hook_resid_post", hf_hook_name=f"model.layers.{self.layer}.output"
            ),
        )
        with torch.device("meta"):
            theirs = JumpReLUSAE(config)
        theirs.load_state_dict({name: getattr(self, own).to(dtype) for name, own in _LENS_NAMES.items()}, assign=True)
        return theirs.eval().requires_grad_(False)


def encode_features(sae: Sae, residuals: Tensor, features: Tensor, chunk: int = 8192) -> Tensor:
    """Activations of a few features, int64 [k], on residuals [n, d_model]: float32 [n, k] in main memory.

    `chunk` residuals are on the SAE's device at once.
    """
    device = sae.w_enc.device
    columns = features.to(device)
    return torch.cat([sae.encode(part.to(device), columns).cpu() for part in residuals.split(chunk)])


def check_sae(folder: Path, layer: int, d_model: int) -> int:
    """Check an SAE without loading it: names, shapes and the place it was made for. Returns its number of features.

    Raises InputError if a tensor is missing, has a wrong shape or kind, or was made for another width or layer.
    """
    from safetensors import SafetensorError, safe_open

    path = _weights(folder)
    try:
        with safe_open(path, "pt") as file:
            slices = {_NAMES.get(name, name): file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            kinds = {name: str(part.get_dtype()) for name, part in slices.items()}
            names = len(file.keys())
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a whole safetensors file ({error}). Download it again.") from None
    if len(slices) < names:
        raise InputError(f"{path}: holds a matrix twice, by two of its names. Which one is meant?")
    needed = [name for name in PARAMETERS if name != "threshold" or _has_threshold(folder)]
    missing = [name for name in needed if name not in shapes]
    if missing:
        raise InputError(f"{path}: found {sorted(shapes)}, expected {needed}; missing {missing}.")
    width, d_sae = shapes["w_enc"] if len(shapes["w_enc"]) == 2 else (0, 0)
    if width != d_model:
        raise InputError(
            f"{path}: made for a residual stream of width {width}, but the model's is {d_model}. "
            "Give --saes those of this model's size."
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
    """A hash of an SAE's biases and thresholds, which no two trainings share; its matrices may be hundreds of GB.

    Raises InputError if it is not there or not whole.
    """
    from safetensors import SafetensorError, safe_open

    path = _weights(folder)
    try:
        with safe_open(path, "pt") as file:
            small = [name for name in sorted(file.keys()) if len(file.get_slice(name).get_shape()) == 1]
            return joined_digest(tensor_digests(file.get_tensor(name) for name in small))
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a whole safetensors file ({error}). Download it again.") from None


def load_sae(
    folder: Path, layer: int, d_model: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Sae:
    """Load one SAE; its two matrices as `dtype`, biases and thresholds as float32.

    Raises InputError as `check_sae`, and if a tensor holds what is not finite as `dtype`.
    """
    from safetensors.torch import load_file

    check_sae(folder, layer, d_model)
    path = _weights(folder)
    tensors = {_NAMES.get(name, name): tensor for name, tensor in load_file(path, str(device)).items()}
    # A ReLU SAE is a JumpReLU SAE whose thresholds are zero.
    tensors.setdefault("threshold", torch.zeros_like(tensors["b_enc"]))
    if _lens_config(folder).get("apply_b_dec_to_input", False):
        tensors["b_enc"] = tensors["b_enc"].float() - tensors["b_dec"].float() @ tensors["w_enc"].float()
    dtypes = {"w_enc": dtype, "w_dec": dtype}
    placed = {n: tensors[n].to(device, dtypes.get(n, torch.float32)) for n in PARAMETERS}
    for name in PARAMETERS:
        if not torch.isfinite(placed[name]).all():
            raise InputError(f"{path}: {name} holds NaN or infinite values. Download it again.")
    sae = Sae(layer, folder.resolve().name, **placed)
    log.info("SAE %s: %d features, %s on %s", sae.id, sae.d_sae, str(dtype).removeprefix("torch."), device)
    return sae


_NAMES = {"W_enc": "w_enc", "W_dec": "w_dec"}
"""sae-lens's names of what Gemma Scope calls otherwise."""
_LENS_NAMES = {name: name for name in PARAMETERS if name not in _NAMES.values()} | _NAMES
"""sae-lens's name of every parameter -> ours."""


def _weights(folder: Path) -> Path:
    for name in ("params.safetensors", "sae_weights.safetensors"):
        if (folder / name).is_file():
            return folder / name
    raise InputError(
        f"{folder / 'params.safetensors'}: not found. Every SAE folder needs params.safetensors (Gemma Scope 2) or "
        "sae_weights.safetensors (sae-lens); pickles are refused."
    )


def _lens_config(folder: Path) -> dict[str, Any]:
    """sae-lens's configuration, empty for a Gemma Scope 2 folder."""
    path = folder / "cfg.json"
    return read_object(path) if path.is_file() else {}


def _has_threshold(folder: Path) -> bool:
    return _lens_config(folder).get("architecture", "jumprelu") == "jumprelu"


def sae_lens_layer(folder: Path) -> int:
    """The layer of a sae-lens folder. Raises InputError if its configuration names none."""
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


def save_sae(sae: Sae, folder: Path, model_name: str, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write one SAE in Gemma Scope 2's layout: params.safetensors and config.json."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    tensors = {name: getattr(sae, name).to(dtype).contiguous().cpu() for name in PARAMETERS}
    save_file(tensors, folder / "params.safetensors")
    config = {
        "architecture": "jump_relu",
        "hf_hook_point_in": f"model.layers.{sae.layer}.output",
        "model_name": model_name,
        "width": sae.d_sae,
        "type": "sae",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
