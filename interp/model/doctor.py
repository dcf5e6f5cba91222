"""`interp doctor`: what this machine has, and which commands will fit into its memory."""

import importlib.metadata
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch

from interp.model.memory_jobs import Job, grounding, measuring, searching, training
from interp.model.memory_model import Format, in_gib
from interp.model.placement import BFLOAT16_SINCE, choose_dtype
from interp.model.quantization import recorded_as
from interp.model.shape import MEDGEMMA_4B, LoadIn, ModelShape, shape_of_folder
from interp.model.spec import Dtype
from interp.runtime.errors import InputError, first_line
from interp.runtime.machine import cores, driver_version, free_space, from_home, gpus
from interp.runtime.memory import GIB, is_size, total_left
from interp.schemas.machine import Disk, Extra, Fit, Gpu, HubRepository, Machine
from interp.storage.hub import CONFIG, locate_config, without_address
from interp.storage.hub_access import WANTED, access, cache_folder, has_login, is_cached, is_offline
from interp.storage.provenance import software

FORMATS: tuple[LoadIn | None, ...] = (None, "8bit", "4bit")
"""The formats of weights that are compared."""
PUBLISHED = range(15, 20)
"""The layers that the published targeted LoRA trains."""
SHAPES = dict.fromkeys(("google/medgemma-4b-it", "google/gemma-3-4b-it"), MEDGEMMA_4B)
"""Hub id -> shape, of models whose shape is known without their files."""
TESTING_EXTRA = "test"
"""The extra that only developers need."""


def jobs(shape: ModelShape) -> dict[str, Job]:
    """The commands that use a model, each with what decides its memory -> what it needs."""
    middle = [layer for layer in PUBLISHED if layer < shape.layers] or [shape.layers // 2]
    return {
        f"interp find-features, {shape.layers} SAEs of 16k": searching(shape.layers),
        "interp test-feature": searching(1),
        f"finetune, layers {middle[0]}-{middle[-1]}, batch 8": training(middle, 16, 8),
        "finetune, all layers, batch 8": training(None, 16, 8),
        "finetune evaluate": measuring(),
        "finetune grounding": grounding(),
    }


def examine(
    model: str | Path | None = None, online: bool = False, gpu_memory: float | None = None, dtype: Dtype = "auto"
) -> Machine:
    """Look at this machine; no weight is loaded or downloaded, and without `online` no network is used.

    The fits are those of a model of the shape of `model`, a folder or a hub id, by default of MedGemma 4B, in the
    memory of this machine, or of a GPU with `gpu_memory` [GiB], which has bfloat16 unless `dtype` says otherwise. With
    `online`, the config.json of a `model` that is not here is downloaded. Raises InputError for a `model` that cannot
    be found or read, and for a `dtype` that this machine's GPU lacks.
    """
    shape, name, saved = (MEDGEMMA_4B, "MedGemma 4B", None) if model is None else _shape_of(model, online)
    found = gpus()
    device = torch.device("cuda" if found else "cpu")
    # A card that is not here cannot be asked.
    format = choose_dtype(dtype, device) if gpu_memory is None else "bfloat16" if dtype == "auto" else dtype
    if gpu_memory is not None and not is_size(gpu_memory):
        raise InputError(f"gpu_memory is {gpu_memory!r}, expected a number of GiB above 0.")
    free = total_left(device) if gpu_memory is None else int(gpu_memory * GIB)
    reached = online and not is_offline()
    return Machine(
        software=software(),
        driver=driver_version(),
        cuda=torch.version.cuda,
        gpus=[
            Gpu(
                name=gpu.name,
                total_gib=in_gib(gpu.total),
                free_gib=in_gib(gpu.free),
                capability=".".join(map(str, gpu.capability)),
                bfloat16=gpu.capability >= BFLOAT16_SINCE,
            )
            for gpu in found
        ],
        cores=cores(),
        memory_gib=in_gib(total_left(torch.device("cpu"))),
        disks=[
            Disk(purpose=purpose, path=from_home(folder), free_gib=in_gib(free_space(folder)))
            for purpose, folder in {
                "downloads": cache_folder(),
                "results": Path.cwd(),
                "temporary files": Path(tempfile.gettempdir()),
            }.items()
        ],
        login=has_login(),
        offline=is_offline(),
        repositories=[
            HubRepository(
                **wanted._asdict(),
                cached=is_cached(wanted.id, wanted.kind),
                access=access(wanted) if reached else "not asked",
            )
            for wanted in WANTED
        ],
        extras=[Extra(name=extra, missing=missing) for extra, missing in missing_extras().items()],
        shape=name,
        dtype=format,
        assumed=gpu_memory is not None and dtype == "auto",
        place="GPU memory" if found or gpu_memory is not None else "main memory",
        free_gib=in_gib(free),
        fits=[fit for name, job in jobs(shape).items() for fit in _fits(name, job, shape, format, saved, free)],
    )


def missing_extras() -> dict[str, list[str]]:
    """Extra of the installed distribution -> its packages that are not installed; empty if run from a bare checkout."""
    try:
        required = importlib.metadata.requires("gatescope") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    found: dict[str, list[str]] = {}
    for line in required:
        match = re.match(r"([\w.-]+).*extra\s*==\s*['\"](\w+)['\"]", line)
        if match is None or match[2] == TESTING_EXTRA:
            continue
        missing = found.setdefault(match[2], [])
        try:
            importlib.metadata.version(match[1])
        except importlib.metadata.PackageNotFoundError:
            missing.append(match[1])
    return found


def _fits(name: str, job: Job, shape: ModelShape, dtype: str, saved: LoadIn | None, free: int) -> list[Fit]:
    # Weights that are saved quantized stay as they are.
    needs: Mapping[LoadIn | None, tuple[int, int]] = {
        load_in: (need.least, need.wanted)
        for load_in in FORMATS
        for need in [job.needs(shape, Format(dtype, saved or load_in))]
    }
    return [
        Fit(
            command=name,
            load_in=load_in,
            least_gib=in_gib(least, free),
            wanted_gib=in_gib(wanted),
            fits=least <= free,
        )
        for load_in, (least, wanted) in needs.items()
    ]


def _shape_of(model: str | Path, online: bool) -> tuple[ModelShape, str, LoadIn | None]:
    """The shape and the name of a model, and how its weights are quantized, from its config.json or as it is known.

    The config.json is the one here or, if `online`, on the hub.
    """
    if (name := without_address(model)) in SHAPES and not Path(model).is_dir():
        return SHAPES[name], name, None
    source = locate_config(model, fetch=online)
    if source is None:
        raise InputError(
            f"{model}: its {CONFIG} is not in the local cache. Add --online, which downloads this file alone, or give "
            "a local folder."
        )
    try:
        shape = shape_of_folder(source.folder)
    # transformers does not validate configurations, and a wrong one may raise any kind of error.
    except Exception as error:
        raise InputError(f"{source.folder / CONFIG}: could not be read ({first_line(error)}).") from None
    return shape, source.name, recorded_as(source.folder)
