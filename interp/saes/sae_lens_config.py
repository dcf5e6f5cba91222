"""Reading the configuration of an SAE in sae-lens's layout as sae-lens itself reads it, older versions included."""

import re
from pathlib import Path
from typing import Any, NamedTuple

from interp.runtime.errors import InputError
from interp.storage.json_files import read_object

CONFIG = "cfg.json"
"""The file by which a folder in sae-lens's layout is recognized."""
TENSORS = {
    "standard": ("W_enc", "W_dec", "b_enc", "b_dec"),
    "jumprelu": ("W_enc", "W_dec", "b_enc", "b_dec", "threshold"),
    "gated": ("W_enc", "W_dec", "b_gate", "b_mag", "r_mag", "b_dec"),
}
"""Architecture -> sae-lens's names of its tensors. Each of these architectures can be written as a JumpReLU SAE."""
_OUTPUT_HOOK = re.compile(
    r"blocks\.(?P<block>\d{1,4})\.hook_(?:resid_post|out)"
    r"|blocks\.(?P<next>[1-9]\d{0,3})\.hook_resid_pre"
    r"|(?:model\.|language_model\.){0,2}layers\.(?P<layer>\d{1,4})(?:\.output)?"
)
"""Names of the residual stream after a layer, which is also the one before the next layer."""


class LensConfig(NamedTuple):
    """What sae-lens's configuration says about the computation of an SAE of the residual stream."""

    architecture: str
    """A key of `TENSORS`."""
    layer: int
    """Decoder layer whose output the SAE reads."""
    d_in: int
    """Width of the residual stream."""
    d_sae: int
    """Number of features."""
    subtract_b_dec: bool
    """Whether the decoder bias is subtracted from the input of the encoder."""


def read_lens_config(folder: Path) -> LensConfig:
    """Read `cfg.json` with sae-lens's own defaults and conversions of older versions.

    Raises InputError if sae-lens cannot read it, if the SAE is not one of the residual stream after a layer, and if its
    activations are not those of a JumpReLU SAE: another architecture, activation function or normalization.
    """
    path = folder / CONFIG
    stored = read_object(path)
    read = _as_sae_lens_reads(path, stored)
    architecture = read.architecture()
    if architecture not in TENSORS:
        raise InputError(
            f"{path}: found architecture {architecture!r}, expected one of {', '.join(TENSORS)}. The activations of "
            "other SAEs are not functions of one feature alone; train with sae-lens's BatchTopK or JumpReLU, which it "
            "saves as jumprelu."
        )
    function = next((stored[name] for name in ("activation_fn", "activation_fn_str") if stored.get(name)), "relu")
    if function != "relu":
        raise InputError(
            f"{path}: found activation function {function!r}, expected 'relu'. Use an SAE trained with it."
        )
    if read.normalize_activations != "none":
        constant = read.normalize_activations == "expected_average_only_in"
        advice = (
            "Fold the normalization with sae-lens's fold_activation_norm_scaling_factor and save the SAE again."
            if constant
            else "It depends on each activation, so it cannot be folded into the weights: use another SAE."
        )
        named = repr(read.normalize_activations)
        raise InputError(f"{path}: found normalize_activations {named}, expected 'none'. {advice}")
    if not isinstance(read.apply_b_dec_to_input, bool):
        raise InputError(f"{path}: found apply_b_dec_to_input {read.apply_b_dec_to_input!r}, expected true or false.")
    return LensConfig(architecture, _layer_of(path, read, stored), read.d_in, read.d_sae, read.apply_b_dec_to_input)


def _as_sae_lens_reads(path: Path, stored: dict[str, Any]) -> Any:
    """The configuration as the object that `sae_lens.SAE.load_from_disk` makes of it."""
    from sae_lens.loading.pretrained_sae_loaders import handle_config_defaulting
    from sae_lens.saes.sae import SAEConfig

    try:
        return SAEConfig.from_dict(handle_config_defaulting(dict(stored)))
    # sae-lens does not validate configurations, and a wrong one may raise any kind of error.
    except Exception as error:
        raise InputError(
            f"{path}: sae-lens cannot read this configuration ({type(error).__name__}: {error}). Save the SAE again "
            "with save_inference_model."
        ) from None


def _layer_of(path: Path, read: Any, stored: dict[str, Any]) -> int:
    """The layer whose output the hook names."""
    place = read.metadata
    hook = place.hook_name or place.hf_hook_name
    match = _OUTPUT_HOOK.fullmatch(hook) if isinstance(hook, str) else None
    if match is None or place.hook_head_index is not None or read.reshape_activations != "none":
        raise InputError(
            f"{path}: found hook {hook or 'none'!r}, expected blocks.L.hook_resid_post. "
            "Only SAEs of the residual stream after a layer can be used."
        )
    number = int(match["block"] or match["layer"] or match["next"])
    # Older versions write the layer beside the hook; sae-lens ignores it, so that a contradiction goes unnoticed.
    said = stored.get("hook_layer", place.hook_layer)
    if said is not None and said != number:
        raise InputError(f"{path}: found hook_layer {said!r}, but the hook is {hook!r}. Correct one of them.")
    return number - 1 if match["next"] else number
