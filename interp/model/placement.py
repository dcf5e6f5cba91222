"""Where a model goes, and in which numbers it computes: devices, number format, quantization and limit of memory."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from interp.model.quantization import quantization_config, silence_products
from interp.model.shape import LoadIn
from interp.runtime.async_copies import copy_to_gpu
from interp.runtime.distributed import require_single_process, team_on
from interp.runtime.errors import InputError
from interp.runtime.memory import limit_memory

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Name of a number format -> its torch dtype."""
BFLOAT16_SINCE = (8, 0)
"""Least compute capability of a GPU that computes bfloat16 itself."""


class Placement(NamedTuple):
    """Where a model goes, and in which numbers it computes."""

    device: str
    """The model's device; the first one if it is divided over several."""
    devices: list[torch.device]
    """All devices that hold weights."""
    dtype: str
    """Name of the number format of the computation, and of all weights that are not quantized."""
    options: dict[str, Any]
    """What `from_pretrained` of transformers is told of all that."""

    def settle(self, model: Any) -> Any:
        """A model that was loaded with `options`, on its device, in eval mode and frozen."""
        if "device_map" not in self.options:
            if self.devices[0].type == "cuda":
                # `to` would take three times as long.
                parameters = list(model.parameters())
                for parameter, copy in zip(parameters, copy_to_gpu(parameters, self.devices[0]), strict=True):
                    parameter.data = copy
            model.to(self.device)
        return model.eval().requires_grad_(False)


def place_model(
    folder: Path,
    device: str,
    dtype: str,
    load_in: LoadIn | None,
    max_memory: float | None,
    saved: str | None,
    spread: Callable[[Path], Any],
) -> Placement:
    """Choose the place of the model in `folder`, and hold its devices to `max_memory` [GiB] if that is given.

    `device` and `dtype` are as for `choose_device` and `choose_dtype`; `device` may be "split", too, and `spread` then
    divides the model of a folder over all GPUs as accelerate expects it. `load_in` quantizes the weights, and `saved`
    says how they are quantized already. Raises InputError for a device, number format or quantization that this machine
    lacks, for weights that would be quantized twice, and for a limit that is not above 0.
    """
    split = device == "split"
    if split:
        require_single_process("--device split")
    first = choose_device("auto" if split else device)
    kind = choose_dtype(dtype, torch.device(first))
    if load_in is not None and saved is not None:
        raise InputError(f"{folder}: the weights are quantized already ({saved}). Leave --load-in out.")
    options: dict[str, Any] = {"dtype": DTYPES[kind]}
    if split:
        options["device_map"] = spread(folder)
    if load_in is not None:
        options["quantization_config"] = quantization_config(load_in, DTYPES[kind])
    if load_in is not None or saved is not None:
        silence_products()
        # Quantized weights are made where they stay.
        options.setdefault("device_map", {"": first})
    devices = [torch.device("cuda", n) for n in range(torch.cuda.device_count())] if split else [torch.device(first)]
    if max_memory is not None:
        for each in devices:
            limit_memory(each, max_memory)
    return Placement(first, devices, kind, options)


def choose_device(device: str) -> str:
    """Resolve `auto` to cuda if there is a GPU and else to cpu; each of several processes gets its own GPU.

    Raises InputError for a device that torch cannot use here, and as `interp.runtime.distributed.team_on` does.
    """
    if device == "auto":
        if not torch.cuda.is_available():
            return "cpu"
        return str(team_on("cuda").device or "cuda")
    try:
        # The meta device has tensors, but no numbers in them.
        float(torch.zeros(1, device=device))
    except (RuntimeError, AssertionError, NotImplementedError):
        raise InputError(
            f"--device {device}: not usable here, expected auto, cpu, cuda or cuda:N for a GPU of this machine."
        ) from None
    return device


def choose_dtype(dtype: str, device: torch.device) -> str:
    """The name of a number format; "auto" is bfloat16 on a GPU that has it, and else float32.

    Raises InputError for an unknown name, and for bfloat16 on a GPU that computes it only by detours.
    """
    lacking = device.type == "cuda" and torch.cuda.get_device_capability(device) < BFLOAT16_SINCE
    if dtype == "auto":
        return "bfloat16" if device.type != "cpu" and not lacking else "float32"
    if dtype not in DTYPES:
        raise InputError(f"--dtype {dtype}: expected auto, {', '.join(DTYPES)}.")
    if dtype == "bfloat16" and lacking:
        major, minor = torch.cuda.get_device_capability(device)
        raise InputError(
            f"--dtype bfloat16: {torch.cuda.get_device_name(device)} has compute capability {major}.{minor}, and "
            "bfloat16 needs 8.0. Use --dtype float32 (the default on such a GPU), with --load-in 4bit if the model "
            "does not fit. float16 is no way out: Gemma 3's residual stream exceeds its largest number, 65504."
        )
    return dtype


def balanced_device_map(model: Any, devices: Sequence[str | int]) -> dict[str, str | int]:
    """The device of each part of a Gemma 3 model, as accelerate expects it.

    The devices get similar shares of the weights, with the layers in order. Everything before and after the layers is
    on the first device. `model` may be on the meta device.
    """
    text = model.model.language_model
    layers = [sum(p.numel() for p in layer.parameters()) for layer in text.layers]
    total = sum(p.numel() for p in model.parameters())
    places: dict[str, str | int] = {"model.vision_tower": devices[0], "model.multi_modal_projector": devices[0]}
    places |= {f"model.language_model.{name}": devices[0] for name in ("embed_tokens", "norm", "rotary_emb")}
    places["lm_head"] = devices[0]
    before = total - sum(layers)
    for number, size in enumerate(layers):
        # The middle of the layer, so that the share stays below 1 and the last layer is on the last device.
        share = (before + size / 2) / total
        places[f"model.language_model.layers.{number}"] = devices[int(share * len(devices))]
        before += size
    return places


def device_map_over_gpus(folder: Path) -> dict[str, str | int]:
    """The device map of a saved model over all GPUs that this process sees. Raises InputError if there is only one."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    count = torch.cuda.device_count()
    if count < 2:
        raise InputError(f"--device split: needs at least two GPUs, but found {count}. Leave --device out.")
    with torch.device("meta"):
        empty = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder, trust_remote_code=False))
    return balanced_device_map(empty, range(count))
