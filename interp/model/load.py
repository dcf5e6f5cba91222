"""Loading a model and its processor onto one device, or over several GPUs if it is too large for one."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from interp.model.fused import fuse
from interp.model.image_token_cache import cache_folder
from interp.model.image_tokens import make_contiguous
from interp.model.input_check import check_inputs
from interp.model.key_heads import share_key_heads
from interp.model.memory_check import check_fits
from interp.model.memory_jobs import Job, loading
from interp.model.memory_model import Format
from interp.model.prompts import DEFAULT_STYLE, PromptStyle, answer_tokens
from interp.model.quantization import keep_layout, quantization_config, quantized_as, saved_as
from interp.model.shape import LoadIn, shape_of_folder
from interp.model.vlm import Vlm
from interp.model.weights_check import check_files, check_weights, refuse_two_models
from interp.paths import WORLD
from interp.runtime.distributed import require_single_process, team_on
from interp.runtime.errors import InputError, first_line
from interp.runtime.memory import limit_memory, memory_left, total_left
from interp.runtime.progress import spinner
from interp.storage.hub import Source, locate

log = logging.getLogger(__name__)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Name of a number format -> its torch dtype."""
BFLOAT16_SINCE = (8, 0)
"""Least compute capability of a GPU that computes bfloat16 itself."""


def load_vlm(
    model: str | Path = WORLD / "planted",
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
    style: PromptStyle = DEFAULT_STYLE,
    image_cache: str | Path | None = None,
    load_in: LoadIn | None = None,
    max_memory: float | None = None,
    job: Job | None = None,
) -> Vlm:
    """Load a Gemma 3 model and its processor, by default the model of the embedded world.

        >>> vlm = interp.load_vlm()  # or interp.load_vlm("google/medgemma-4b-it")
        >>> vlm
        Vlm(planted, 10 layers, d_model 128, ...)

    `model` is a local folder or a hub id. `device` "auto" takes a GPU if there is one, and "split" divides the model
    over all GPUs. `dtype` is as for `choose_dtype`. `image_cache` is a folder that keeps image tokens between runs and
    is created if it is missing. `load_in` quantizes the decoder (`interp.model.quantization`). `max_memory` [GiB] is
    the most memory that the run may take, and `job` what it will do, by default nothing but load the model.

    Raises InputError for a model that cannot be found or is not a Gemma 3 (see `interp.storage.hub.locate`), whose
    files lack weights or hold others (`interp.model.weights_check`), or whose template, tokenizer and processor do not
    fit it (`interp.model.input_check`); for a device, dtype or quantization that this machine lacks; for a
    `max_memory` that is not above 0; for an `image_cache` that cannot be a folder; and if the job does not fit
    into memory (`interp.model.memory_check`).
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    split = device == "split"
    if split:
        require_single_process("--device split")
    device = choose_device("auto" if split else device)
    kind = choose_dtype(dtype, torch.device(device))
    chosen = DTYPES[kind]
    source = locate(model, revision)
    refuse_two_models(source.folder)
    check_files(source.folder)
    saved = saved_as(source.folder)
    if load_in is not None and saved is not None:
        raise InputError(f"{source.folder}: the weights are quantized already ({saved}). Leave --load-in out.")
    places: dict[str, Any] = {"device_map": device_map_over_gpus(source.folder)} if split else {}
    if load_in is not None:
        places["quantization_config"] = quantization_config(load_in, chosen)
    if load_in is not None or saved is not None:
        # Quantized weights are made where they stay.
        places.setdefault("device_map", {"": device})
    devices = [torch.device("cuda", n) for n in range(torch.cuda.device_count())] if split else [torch.device(device)]
    if max_memory is not None:
        for each in devices:
            limit_memory(each, max_memory)
    check_memory(source, Format(kind, load_in or saved), job or loading(), devices, max_memory)
    cache = None if image_cache is None else cache_folder(Path(image_cache))
    try:
        with spinner("loading the model"), quiet_loading():
            processor = AutoProcessor.from_pretrained(source.folder, trust_remote_code=False)
            adopt_template(processor)
            # Sizes are compared below, where the error can name a weight.
            found: Any = AutoModelForImageTextToText.from_pretrained(
                source.folder,
                dtype=chosen,
                attn_implementation="sdpa",
                trust_remote_code=False,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **places,
            )
            loaded, report = found
            check_weights(source.folder, report)
            load_in = quantized_as(loaded)
            keep_layout(loaded)
            answers = answer_tokens(processor.tokenizer)
            check_inputs(loaded, processor, answers, style)
    except InputError as error:
        folder = "" if str(error).startswith(str(source.folder)) else f"{source.folder}: "
        raise InputError(f"{folder}{error}") from None
    # transformers does not validate configurations, and a wrong one may raise any kind of error.
    except Exception as error:
        # While cleaning up after an interruption, torch may raise such an error too.
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        reason = first_line(error)
        raise InputError(f"{source.folder}: could not be loaded ({reason}).") from None
    # peft writes this into an adapter as its base: the hub id rather than a path on this machine.
    loaded.name_or_path = str(model)
    make_contiguous(loaded)
    fuse(loaded)
    share_key_heads(loaded)
    vlm = Vlm(
        model=(loaded if places else loaded.to(device)).eval().requires_grad_(False),
        processor=processor,
        name=source.name,
        revision=source.revision,
        answers=answers,
        style=style,
        image_cache=cache,
        load_in=load_in,
        max_memory=max_memory,
    )
    # Of a limit, more is left to residuals and stored states.
    limit_image_tokens(vlm, memory_left(vlm.device, max_memory).host // (2 if max_memory is None else 4))
    kind += f", quantized to {load_in}" if load_in else ""
    log.info("model %s: %d layers of width %d, %s on %s", vlm.name, vlm.n_layers, vlm.d_model, kind, vlm.device)
    return vlm


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


def check_memory(
    source: Source, format: Format, job: Job, devices: Sequence[torch.device], max_memory: float | None
) -> None:
    """Raise InputError if a job with the model in `source` does not fit; an unreadable config is passed over.

    The layers are divided over `devices`, if there are several.
    """
    try:
        shape = shape_of_folder(source.folder)
    # It is read again below, where any kind of error is reported.
    except Exception:
        return
    free = min(total_left(device, max_memory) for device in devices)
    check_fits(shape, format, job, free, devices[0].type == "cuda", max_memory is not None, len(devices))


def adopt_template(processor: Any) -> None:
    """Give a processor without a chat template that of its tokenizer, which tokenizer_config.json may hold."""
    if processor.chat_template is None:
        processor.chat_template = processor.tokenizer.chat_template
    if processor.chat_template is None:
        raise InputError(
            "No chat template: expected chat_template.jinja, or chat_template in tokenizer_config.json. Copy it from "
            "the base model, or save the processor with save_pretrained."
        )


def limit_image_tokens(vlm: Vlm, max_bytes: int) -> None:
    """Set `vlm.max_images` to the number of images whose tokens fit into `max_bytes` of main memory, at least one."""
    token_bytes = vlm.d_model * vlm.tower_dtype.itemsize
    vlm.max_images = max(1, max_bytes // (vlm.model.config.mm_tokens_per_image * token_bytes))


def choose_device(device: str) -> str:
    """Resolve `auto` to cuda if there is a GPU and else to cpu; each of several processes gets its own GPU.

    Raises InputError for a device that torch cannot use here, and as `interp.runtime.distributed.team_on` does.
    """
    if device == "auto":
        if not torch.cuda.is_available():
            return "cpu"
        return str(team_on("cuda").device or "cuda")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        raise InputError(
            f"--device {device}: not usable here, expected auto, cpu, cuda or cuda:N for a GPU of this machine."
        ) from None
    return device


@contextmanager
def quiet_loading() -> Iterator[None]:
    """While open, silence transformers' progress bars and advice, on which our users cannot act."""
    from transformers.utils import logging

    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


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
