"""A JumpReLU sparse autoencoder of the residual stream: loading, applying and saving it."""

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from interp.runtime.errors import InputError
from interp.saes.sae_folder import LENS_NAMES, PARAMETERS, check_sae, read_parameters, weights_file

if TYPE_CHECKING:
    from sae_lens import JumpReLUSAE

log = logging.getLogger(__name__)


class Sae(NamedTuple):
    """A JumpReLU sparse autoencoder of resid_post at one layer (Rajamanoharan et al., arXiv 2407.14435).

    >>> f = sae.encode(interp.measure(vlm, prompts.head(8), layers=[sae.layer]).residuals[:, 0])
    >>> f.shape  # wordings, features
    torch.Size([8, 512])
    """

    layer: int
    """Decoder layer whose output the SAE reads."""
    id: str
    """Name of the SAE's folder, e.g. layer_17_width_16k_l0_medium."""
    w_enc: Tensor
    """Encoder matrix: [d_model, d_sae]."""
    b_enc: Tensor
    """Encoder bias: float32 [d_sae]."""
    w_dec: Tensor
    """Decoder matrix: [d_sae, d_model]; row i is the direction that feature i writes."""
    b_dec: Tensor
    """Decoder bias: float32 [d_model]."""
    threshold: Tensor
    """JumpReLU thresholds: float32 [d_sae]; a feature is zero unless its pre-activation exceeds its threshold."""

    def __repr__(self) -> str:
        kind = f"{self.w_enc.dtype} on {self.w_enc.device}".removeprefix("torch.")
        return f"Sae({self.id}, layer {self.layer}, {self.d_sae} features, d_model {len(self.b_dec)}, {kind})"

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return self.w_enc.shape[1]

    def encode(self, x: Tensor, features: Tensor | None = None) -> Tensor:
        """Activations f = relu(z) * 1[z > threshold] with z = x W_enc + b_enc: [..., d_model] -> float32 [..., d_sae].

        With `features` int64 [k], only those features: float32 [..., k].
        """
        w, b, threshold = self.w_enc, self.b_enc, self.threshold
        if features is not None:
            w, b, threshold = w[:, features], b[features], threshold[features]
        # In place, because the activations of many tokens are much larger than all else.
        z = (x.to(w.dtype) @ w).float().add_(b)
        return z.masked_fill_(z <= threshold.clamp(min=0), 0)

    def decode(self, f: Tensor) -> Tensor:
        """Residuals reconstructed from activations: [..., d_sae] -> float32 [..., d_model]."""
        return (f.to(self.w_dec.dtype) @ self.w_dec).float() + self.b_dec

    def to_sae_lens(self) -> "JumpReLUSAE":
        """The SAE as sae-lens's own class, for `Vlm.bridge`; it shares the matrices and has biases of their dtype."""
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
        theirs.load_state_dict({lens: getattr(self, ours).to(dtype) for ours, lens in LENS_NAMES.items()}, assign=True)
        return theirs.eval().requires_grad_(False)


def encode_features(sae: Sae, residuals: Tensor, features: Tensor, chunk: int = 8192) -> Tensor:
    """Activations of the features int64 [k] on residuals [n, d_model]: float32 [n, k] in main memory.

    At most `chunk` residuals are on the SAE's device at once.
    """
    device = sae.w_enc.device
    columns = features.to(device)
    return torch.cat([sae.encode(part.to(device), columns).cpu() for part in residuals.split(chunk)])


def decoder_cosines(sae: Sae, direction: Tensor) -> Tensor:
    """Cosine of every feature's decoder row with `direction` [d_model] or [d_model, k]: float32 [d_sae] or [d_sae, k].

    The result is on the SAE's device.
    """
    own = torch.nn.functional.normalize(direction.float(), dim=0)
    # In parts, because a float copy of the widest SAEs would take gigabytes.
    parts = [torch.nn.functional.normalize(part.float(), dim=1) @ own for part in sae.w_dec.split(16384)]
    return torch.cat(parts)


def load_sae(
    folder: str | Path, layer: int, d_model: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Sae:
    """Load one SAE, with its matrices as `dtype` and its biases and thresholds as float32.

        >>> sae = interp.load_sae(saes[6], 6, vlm.d_model)
        >>> sae
        Sae(layer_6_width_512_l0_small, layer 6, 512 features, d_model 128, float32 on cpu)

    Raises InputError as `interp.saes.sae_folder.check_sae` does, and if a tensor is not finite as `dtype`.
    """
    folder = Path(folder)
    check_sae(folder, layer, d_model)
    tensors = read_parameters(folder, device)
    dtypes = {"w_enc": dtype, "w_dec": dtype}
    placed = {name: tensors[name].to(device, dtypes.get(name, torch.float32)) for name in PARAMETERS}
    # From a GPU at once. Where the smallest and the largest value are finite, all are.
    ends = torch.stack([torch.stack(each.aminmax()).float() for each in placed.values()])
    for name, finite in zip(PARAMETERS, ends.isfinite().all(1).tolist(), strict=True):
        if not finite:
            raise InputError(f"{weights_file(folder)}: {name} holds NaN or infinite values. Download it again.")
    sae = Sae(layer, folder.resolve().name, **placed)
    log.info("SAE %s: %d features, %s on %s", sae.id, sae.d_sae, str(dtype).removeprefix("torch."), device)
    return sae


def save_sae(sae: Sae, folder: Path, model_name: str, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write one SAE to a new folder in Gemma Scope 2's layout: params.safetensors and config.json."""
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
