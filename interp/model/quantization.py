"""Quantizing the projections of the decoder layers to 4 or 8 bits while a model is loaded, with bitsandbytes.

The vision tower, the projector, the embeddings and the output layer stay as they are: they are small or shared, image
tokens then do not depend on the quantization, and margins are read from unquantized rows.
"""

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import torch

from interp.model.shape import LoadIn
from interp.runtime.errors import InputError
from interp.storage.json_files import read_object

KEPT = ("lm_head", "model.vision_tower", "model.multi_modal_projector", "vision_tower", "multi_modal_projector")
"""Modules that are not quantized, as transformers matches them."""
LIBRARY = "bitsandbytes"


def quantization_config(load_in: LoadIn, dtype: torch.dtype) -> Any:
    """The `BitsAndBytesConfig` of transformers: NF4 with double quantization, or LLM.int8 with its usual threshold.

    Matrix products of 4-bit weights are computed in `dtype`. Raises InputError for another format, and if bitsandbytes
    is not installed.
    """
    from transformers import BitsAndBytesConfig

    if load_in not in get_args(LoadIn):
        raise InputError(f"load_in is {load_in!r}, expected one of {', '.join(get_args(LoadIn))}, or None.")
    if find_spec(LIBRARY) is None:
        raise InputError(
            f"--load-in {load_in}: {LIBRARY} is not installed. Install it with `pip install {LIBRARY}`, or give a "
            "folder that was saved quantized to a machine that has it."
        )
    if load_in == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=list(KEPT))
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=list(KEPT),
    )


def silence_products() -> None:
    """Keep bitsandbytes from logging with every product of 8-bit weights that it casts the inputs to float16."""
    logging.getLogger(f"{LIBRARY}.autograd._functions").setLevel(logging.ERROR)


def keep_layout(model: Any) -> None:
    """Keep 4-bit weights in the layout of their files, in place.

    On a CPU, bitsandbytes repacks them in the first pass without gradients; gradients that pass them later are then
    wrong, with nothing but a warning, and so are the weights once they are saved.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def saved_as(folder: Path) -> LoadIn | None:
    """The format to which the weights in a model folder are quantized; None if they are not.

    Raises InputError for a quantization other than bitsandbytes', and if bitsandbytes is not installed.
    """
    found = recorded_as(folder)
    if found is not None and find_spec(LIBRARY) is None:
        raise InputError(
            f"{folder}: quantized weights, but {LIBRARY} is not installed. Install it with `pip install {LIBRARY}`."
        )
    return found


def recorded_as(folder: Path) -> LoadIn | None:
    """The format of `saved_as`, whether or not it can be read here. Raises InputError for other libraries'."""
    config = read_object(folder / "config.json").get("quantization_config")
    if not isinstance(config, dict):
        return None
    if config.get("quant_method") != LIBRARY:
        raise InputError(
            f"{folder / 'config.json'}: weights quantized by {config.get('quant_method')}, expected {LIBRARY} or none. "
            "Give the model in bfloat16 or float32."
        )
    return "4bit" if config.get("load_in_4bit") else "8bit"


def quantized_as(model: Any) -> LoadIn | None:
    """The format to which a loaded model's weights are quantized, now or in its files; None if they are not."""
    config = getattr(model.config, "quantization_config", None)
    if config is None:
        return None
    return "4bit" if config.load_in_4bit else "8bit"
