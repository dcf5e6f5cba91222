"""Training logs for TensorBoard or W&B, through accelerate's trackers, if the user asks for them; W&B stays offline.

The logs hold the numbers of every step and of every validation (`finetune.lora.history`) and the settings of the run,
but no text, no path and nothing about this machine.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from interp.runtime.errors import InputError
from interp.runtime.progress import notify
from interp.storage.atomic import refuse_used

if TYPE_CHECKING:
    from accelerate import Accelerator
    from accelerate.tracking import GeneralTracker

TrackerName = Literal["tensorboard", "wandb"]
PROJECT = "gatescope"
SILENT = {"WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"}
"""Environment variables for W&B, unless the user has set them. Without the second it reports its own errors home."""


def logs_folder(out: Path) -> Path:
    """The folder of the logs of a training into `out`: next to it."""
    absolute = out.absolute()
    return absolute.with_name(f"{absolute.name}.logs")


def check_tracker(log_with: "TrackerName | GeneralTracker | None", out: Path, resume: bool) -> None:
    """Raise InputError if a tracker is not installed, or if logs of another training into `out` exist."""
    if not isinstance(log_with, str):
        return
    from accelerate.tracking import get_available_trackers

    available = [str(name) for name in get_available_trackers() if str(name) in ("tensorboard", "wandb")]
    if log_with not in available:
        raise InputError(
            f"--log-with {log_with}: {log_with} is not installed here"
            + (f" (installed: {', '.join(available)})" if available else "")
            + f". Install it with `pip install {log_with}`, or leave the option out."
        )
    if not resume:
        refuse_used(logs_folder(out))


@contextmanager
def tracked(
    accelerator: "Accelerator", out: Path, settings: Mapping[str, Any], inputs: Mapping[str, Any]
) -> Iterator[None]:
    """Send what the accelerator logs to the trackers that it was made with, if any, while the context is open.

    `settings` are logged once. `inputs` give the run its name, so that a resumed training continues the same run.
    """
    if not accelerator.log_with:
        yield
        return
    logs = logs_folder(out)
    if "wandb" in map(str, accelerator.log_with):
        for name, value in SILENT.items():
            os.environ.setdefault(name, value)
        if accelerator.is_main_process:
            logs.mkdir(parents=True, exist_ok=True)
    options = {"wandb": _wandb_options(logs, out.name, inputs)}
    accelerator.init_trackers(PROJECT, plain_settings(settings), init_kwargs=options)
    if accelerator.is_main_process and logs.exists():
        notify(f"The training is logged to {logs}.")
    try:
        yield
    finally:
        # Not end_training, which also disconnects the processes.
        for tracker in accelerator.trackers:
            tracker.finish()
        accelerator.trackers = []


def plain_settings(settings: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """Settings in a form that every tracker accepts: numbers and text; other values as JSON, None left out."""
    return {
        name: value if isinstance(value, bool | int | float | str) else json.dumps(value)
        for name, value in settings.items()
        if value is not None
    }


def _wandb_options(logs: Path, name: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Options that keep W&B from recording the machine, the command line, the code and its repository."""
    quiet = {"x_disable_meta": True, "x_disable_stats": True, "x_disable_machine_info": True, "console": "off"}
    bare = {"disable_code": True, "disable_git": True, "disable_job_creation": True, "x_save_requirements": False}
    digest = hashlib.blake2b(json.dumps([name, inputs], sort_keys=True).encode(), digest_size=8).hexdigest()
    # The host's name is looked up unless one is given.
    return {
        "dir": str(logs),
        "id": digest,
        "name": name,
        "resume": "allow",
        "settings": quiet | bare | {"host": "-"},
    }
