"""Loading a model and its processor onto one device, or over several GPUs if it is too large for one."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from interp.model.attention import set_attention
from interp.model.cpu_kernels import use_cpu_kernels
from interp.model.first_use import kernels_loaded, use_libraries
from interp.model.fused import fuse
from interp.model.image_token_cache import cache_folder
from interp.model.image_tokens import begin_images, make_contiguous
from interp.model.input_check import check_inputs
from interp.model.memory_check import check_fits
from interp.model.memory_jobs import Job, loading
from interp.model.memory_model import Format
from interp.model.placement import DTYPES, device_map_over_gpus, place_model
from interp.model.prompts import DEFAULT_STYLE, PromptStyle, answer_tokens
from interp.model.quantization import keep_layout, quantized_as, saved_as
from interp.model.shape import LoadIn, ModelShape, shape_of_folder
from interp.model.vlm import Vlm
from interp.model.weights_check import check_files, check_weights, refuse_two_models
from interp.paths import WORLD
from interp.runtime.errors import InputError, first_line
from interp.runtime.memory import memory_left, total_left
from interp.runtime.progress import spinner
from interp.storage.hub import Source, locate

log = logging.getLogger(__name__)


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
    images: Iterable[str] = (),
) -> Vlm:
    """Load a Gemma 3 model and its processor, by default the model of the embedded world.

        >>> vlm = interp.load_vlm()  # or interp.load_vlm("google/medgemma-4b-it")
        >>> vlm
        Vlm(planted, 10 layers, d_model 128, ...)

    `model` is a local folder or a hub id. `device` "auto" takes a GPU if there is one, and "split" divides the model
    over all GPUs. `dtype` is as for `choose_dtype`. `image_cache` is a folder that keeps image tokens between runs and
    is created if it is missing. `load_in` quantizes the decoder (`interp.model.quantization`). `max_memory` [GiB] is
    the most memory that the run may take, and `job` what it will do, by default nothing but load the model. Of the
    `images` that will be encoded next, a GPU's first ones are read meanwhile.

    Raises InputError for a model that cannot be found or is not a Gemma 3 (see `interp.storage.hub.locate`), whose
    files lack weights or hold others (`interp.model.weights_check`), or whose template, tokenizer and processor do not
    fit it (`interp.model.input_check`); for a device, dtype or quantization that this machine lacks; for a
    `max_memory` that is not above 0; for an `image_cache` that cannot be a folder; and if the job does not fit
    into memory (`interp.model.memory_check`).
    """
    source = locate(model, revision)
    refuse_two_models(source.folder)
    check_files(source.folder)
    saved = saved_as(source.folder)
    placed = place_model(source.folder, device, dtype, load_in, max_memory, saved, device_map_over_gpus)
    check_memory(source, Format(placed.dtype, load_in or saved), job or loading(), placed.devices, max_memory)
    use_libraries(placed.devices[0], DTYPES[placed.dtype])
    # Takes seconds, of which the checks above need nothing.
    from transformers import AutoModelForImageTextToText, AutoProcessor

    cache = None if image_cache is None else cache_folder(Path(image_cache))
    try:
        with spinner("loading the model"), quiet_loading():
            processor = AutoProcessor.from_pretrained(source.folder, trust_remote_code=False)
            adopt_template(processor)
            # Sizes are compared below, where the error can name a weight.
            found: Any = AutoModelForImageTextToText.from_pretrained(
                source.folder,
                attn_implementation="sdpa",
                trust_remote_code=False,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **placed.options,
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
    loaded.name_or_path = str(model) if source.revision is None else source.name
    make_contiguous(loaded)
    fuse(loaded)
    if placed.devices[0].type == "cpu":
        use_cpu_kernels(loaded)
    set_attention(loaded)
    vlm = Vlm(
        model=loaded,
        processor=processor,
        name=source.name,
        revision=source.revision,
        answers=answers,
        style=style,
        image_cache=cache,
        load_in=load_in,
        max_memory=max_memory,
    )
    shape, learns = ModelShape.of(loaded.config), (job or loading()).learns
    with kernels_loaded(shape, placed.devices[0], DTYPES[placed.dtype], learns):
        begin_images(vlm, images, placed.devices[0])
        placed.settle(loaded)
    # Of a limit, more is left to residuals and stored states.
    limit_image_tokens(vlm, memory_left(vlm.device, max_memory).host // (2 if max_memory is None else 4))
    kind = placed.dtype + (f", quantized to {load_in}" if load_in else "")
    log.info("model %s: %d layers of width %d, %s on %s", vlm.name, vlm.n_layers, vlm.d_model, kind, vlm.device)
    return vlm


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
