"""Verbose logging: `--verbose` shows on stderr what a run does. Without it our modules and the libraries are silent.

Modules log at level INFO to a logger of their own name. They log names and numbers of a user's files, never their text.
"""

import logging
import os
import sys
import warnings

from interp.runtime.console import progress_console
from interp.runtime.distributed import is_main

PACKAGES = ("interp", "finetune")
QUOTING_LIBRARIES = ("pydicom", "PIL")
"""Libraries whose messages quote the files that they read; they are always silenced."""
QUIET_VARIABLES = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_VERBOSITY": "error", "DATASETS_VERBOSITY": "error"}
"""Environment variables that Hugging Face's libraries read when they are imported; a user's own value is kept."""
GIB = 2**30
log = logging.getLogger(__name__)


def silence_libraries() -> None:
    """Silence the libraries and show their bars on a terminal only. Must be called before they are imported."""
    for name, value in QUIET_VARIABLES.items():
        os.environ.setdefault(name, value)
    if not progress_console().is_interactive:
        os.environ.setdefault("TQDM_DISABLE", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    _mute_quoting_libraries()
    # Without any handler Python itself would print the libraries' warnings.
    _set_handler(logging.NullHandler())


def enable_verbose() -> None:
    """Show our modules' log and the libraries' warnings on stderr, in the main process only."""
    for name, value in QUIET_VARIABLES.items():
        if os.environ.get(name) == value:
            del os.environ[name]
    if not sys.warnoptions:
        warnings.simplefilter("default")
        warnings.simplefilter("ignore", DeprecationWarning)
    # peft uses a deprecated name of transformers; a user cannot change that.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
    _mute_quoting_libraries()
    _set_handler(_handler() if is_main() else logging.NullHandler())
    logging.captureWarnings(True)
    for name in PACKAGES:
        logging.getLogger(name).setLevel(logging.INFO)


def reset_logging() -> None:
    """Undo the changes that `silence_libraries` and `enable_verbose` made to logging."""
    logging.captureWarnings(False)
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if handler.get_name() == __name__]:
        root.removeHandler(handler)
    for name in PACKAGES:
        logging.getLogger(name).setLevel(logging.NOTSET)


def log_duration(name: str, seconds: float) -> None:
    """Log the duration of a part of a run, and the memory in use after it."""
    if log.isEnabledFor(logging.INFO):
        log.info("%s in %.1f s (%s)", name, seconds, memory_text())


def memory_text() -> str:
    """The main memory that this process uses, and the peak memory of its GPU."""
    import psutil

    text = f"memory {psutil.Process().memory_info().rss / GIB:.1f} GiB"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        text += f", GPU at most {torch.cuda.max_memory_allocated() / GIB:.1f} GiB"
    return text


def _mute_quoting_libraries() -> None:
    for name in QUOTING_LIBRARIES:
        warnings.filterwarnings("ignore", module=name)
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _set_handler(handler: logging.Handler) -> None:
    """Make `handler` our only handler on the root logger."""
    reset_logging()
    handler.set_name(__name__)
    logging.getLogger().addHandler(handler)


def _handler() -> logging.Handler:
    """Lines laid out by rich on a terminal, and unwrapped lines in a file."""
    console = progress_console()
    if console.is_terminal:
        from rich.logging import RichHandler

        return RichHandler(console=console, show_path=False, log_time_format="%X", markup=False, highlighter=None)
    plain = logging.StreamHandler(sys.stderr)
    plain.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%X"))
    return plain
