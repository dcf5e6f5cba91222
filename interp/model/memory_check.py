"""Whether a job fits into memory, asked before any weight is read; if not, what would."""

import logging
from collections.abc import Iterator
from math import ceil

from interp.model.memory_jobs import Job
from interp.model.memory_model import Format, Need, gib
from interp.model.shape import LoadIn, ModelShape
from interp.runtime.errors import InputError
from interp.runtime.memory import GIB

log = logging.getLogger(__name__)
QUANTIZED: tuple[LoadIn, ...] = ("8bit", "4bit")
"""Formats that need less memory than unquantized weights, from most to least."""


def check_fits(
    shape: ModelShape, format: Format, job: Job, free: int, on_gpu: bool, limited: bool, gpus: int = 1
) -> None:
    """Raise InputError if a job's least memory is more than is `free` [bytes], with what would fit.

    `on_gpu` says whose memory it is, and `limited` whether --max-memory is why there is no more. With several `gpus`,
    over which the layers are divided, `free` is that of the fullest.
    """
    need = job.needs(shape, format).on_each(gpus)
    log.info("memory: needs %s, takes up to %s, of %s", gib(need.least), gib(need.wanted), gib(free))
    if need.least <= free:
        return
    place = "main memory" if not on_gpu else "GPU memory" if gpus == 1 else f"memory on each of {gpus} GPUs"
    limit = " allowed by --max-memory" if limited else " free"
    offered = [f"{said} ({gib(size, free)})" for said, size in fitting(shape, format, job, free, gpus)]
    if offered:
        advice = f"What fits: {'; '.join(offered)}."
    else:
        more = f"raise --max-memory to {ceil(10 * need.least / GIB) / 10:g}, " if limited else ""
        advice = f"No option makes it fit: {more}{_largest_advice(on_gpu, gpus)}"
    raise InputError(
        f"This run needs at least {gib(need.least, free)} of {place} ({_parts_text(need)}), and {gib(free)} is{limit}. "
        f"{advice}"
    )


def fitting(shape: ModelShape, format: Format, job: Job, free: int, gpus: int = 1) -> Iterator[tuple[str, int]]:
    """The options with which a job fits into `free` bytes of each GPU, and the least memory that it needs then [bytes].

    For weights as they are and for each quantization, the first of the job's options that is enough, or none at all.
    """
    formats: dict[str, Format] = {"": format}
    if format.load_in is None:
        formats |= {f"--load-in {kind} ": format._replace(load_in=kind) for kind in QUANTIZED}
    for quantized, each in formats.items():
        for option, needs in {"": job.needs, **job.smaller}.items():
            least = needs(shape, each).on_each(gpus).least
            if least <= free:
                yield f"{quantized}{option}".strip(), least
                break


def _parts_text(need: Need) -> str:
    """The parts of a need that weigh at least a tenth of a GiB, the largest phase among them."""
    parts = [*need.held, need.largest_phase]
    return ", ".join(f"{part.what} {gib(part.least)}" for part in parts if part.least > 0.05 * GIB)


def _largest_advice(on_gpu: bool, gpus: int) -> str:
    """What to do if no option is enough."""
    if gpus > 1:
        return "use more GPUs, GPUs with more memory, or a smaller model."
    if on_gpu:
        return "use a GPU with more memory, several with --device split, or a smaller model."
    return "use a machine with more memory, or a smaller model."
