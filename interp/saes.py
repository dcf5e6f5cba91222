"""Sparse autoencoders (JumpReLU) of the residual stream, one a layer, in Gemma Scope 2's folder layout."""

import json
import re
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from interp.errors import InputError

PARAMETERS = ("w_enc", "w_dec", "b_enc", "b_dec", "threshold")


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

    def encode(self, x: Tensor) -> Tensor:
        """Residuals [..., d_model] -> activations f = z * 1[z > threshold], z = x W_enc + b_enc, [..., d_sae]."""
        z = x.to(self.w_enc.dtype) @ self.w_enc + self.b_enc
        return torch.relu(z) * (z > self.threshold)

    def decode(self, f: Tensor) -> Tensor:
        """Activations [..., d_sae] -> reconstructed residuals [..., d_model]."""
        return f @ self.w_dec + self.b_dec


def sae_folders(path: str | Path) -> dict[int, Path]:
    """The SAE folder of every layer found directly under `path` (or under `path`/resid_post_all, /resid_post)."""
    root = Path(path)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder. Give --saes a folder with layer_*_width_* folders inside.")
    for place in (root, root / "resid_post_all", root / "resid_post"):
        found: dict[int, Path] = {}
        for folder in sorted(place.glob("layer_*")):
            match = re.match(r"layer_(\d+)", folder.name)
            if match and folder.is_dir():
                layer = int(match.group(1))
                if layer in found:
                    raise InputError(
                        f"{place}: layer {layer} has two SAEs, {found[layer].name} and {folder.name}. "
                        "Give --saes a folder with one width and L0."
                    )
                found[layer] = folder
        if found:
            return found
    raise InputError(f"{root}: no layer_*_width_* folders inside. Give --saes a folder in Gemma Scope 2's layout.")


def load_sae(folder: Path, layer: int, d_model: int, device: torch.device | str = "cpu") -> Sae:
    """Load one SAE as float32.

    Raises InputError if a tensor is missing, has a wrong shape, holds NaN, or was made for another width or layer.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / "params.safetensors"
    if not path.is_file():
        raise InputError(f"{path}: not found. Every SAE folder needs params.safetensors (pickles are refused).")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a whole safetensors file ({error}). Download it again.") from None
    missing = [name for name in PARAMETERS if name not in tensors]
    if missing:
        raise InputError(f"{path}: found {sorted(tensors)}, expected {list(PARAMETERS)}; missing {missing}.")
    width, d_sae = tensors["w_enc"].shape if tensors["w_enc"].ndim == 2 else (0, 0)
    expected = {"w_enc": (d_model, d_sae), "w_dec": (d_sae, d_model), "b_enc": (d_sae,), "b_dec": (d_model,)}
    expected["threshold"] = (d_sae,)
    if width != d_model:
        raise InputError(
            f"{path}: made for a residual stream of width {width}, but the model's is {d_model}. "
            "Give --saes those of this model's size."
        )
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            raise InputError(f"{path}: {name} has shape {list(tensors[name].shape)}, expected {list(shape)}.")
        if not torch.isfinite(tensors[name]).all():
            raise InputError(f"{path}: {name} holds NaN or infinite values. Download it again.")
    _check_hook(folder / "config.json", layer)
    return Sae(layer, folder.name, **{n: tensors[n].to(device, torch.float32) for n in PARAMETERS})


def _check_hook(path: Path, layer: int) -> None:
    if not path.is_file():
        return
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}).") from None
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


class Fit(NamedTuple):
    """How well an SAE describes some residuals."""

    fvu: float
    """Fraction of variance unexplained: sum of squared errors over that about the mean."""
    r2: float
    """1 - fvu."""
    l0: float
    """Mean number of active features."""
    dead: float
    """Share of features that are never active."""


def fit(sae: Sae, residuals: Tensor) -> Fit:
    """Reconstruction quality on residuals [n, d_model]."""
    x = residuals.to(sae.w_enc.device, torch.float32)
    f = sae.encode(x)
    error = (x - sae.decode(f)).pow(2).sum()
    spread = (x - x.mean(0)).pow(2).sum()
    fvu = float(error / spread)
    active = f > 0
    return Fit(fvu, 1 - fvu, float(active.sum(1).float().mean()), float((~active.any(0)).float().mean()))
