"""What a run does, for who wants to know: --verbose shows it on stderr. Without it the libraries too are quiet.

Modules say what they do to a logger of their own name, at level INFO, and never what a user's files say: of these they
give names and numbers.
"""

import logging
import os
import sys
import warnings

from interp.runtime.console import progress_console
from interp.runtime.distributed import is_main

PACKAGES = ("interp", "finetune")
QUOTING_LIBRARIES = ("pydicom", "PIL")
"""Libraries whose messages quote the files that they read."""
QUIET_VARIABLES = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_VERBOSITY": "error", "DATASETS_VERBOSITY": "error"}
"""What Hugging Face's libraries read when they are loaded; where the user has set one, it stays."""
GIB = 2**30
log = logging.getLogger(__name__)


def silence_libraries() -> None:
    """Let the libraries say nothing, and show their bars only on a terminal. To be called before they are loaded."""
    for name, value in QUIET_VARIABLES.items():
        os.environ.setdefault(name, value)
    if not progress_console().is_interactive:
        os.environ.setdefault("TQDM_DISABLE", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    _mute_quoting_libraries()
    # Without any handler Python itself would print what libraries warn of.
    _set_handler(logging.NullHandler())


def enable_verbose() -> None:
    """Show on stderr what our modules do and what the libraries warn of, of the main process."""
    for name, value in QUIET_VARIABLES.items():
        if os.environ.get(name) == value:
            del os.environ[name]
    if not sys.warnoptions:
        warnings.simplefilter("default")
        warnings.simplefilter("ignore", DeprecationWarning)
    # peft's use of a transformers name that is going away; nothing that a user could change.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
    _mute_quoting_libraries()
    _set_handler(_handler() if is_main() else logging.NullHandler())
    logging.captureWarnings(True)
    for name in PACKAGES:
        logging.getLogger(name).setLevel(logging.INFO)


def reset_logging() -> None:
    """Undo what `silence_libraries` and `enable_verbose` did to logging."""
    logging.captureWarnings(False)
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if handler.get_name() == __name__]:
        root.removeHandler(handler)
    for name in PACKAGES:
        logging.getLogger(name).setLevel(logging.NOTSET)


def log_duration(name: str, seconds: float) -> None:
    """Say how long a part of a run took, and how much memory is in use behind it."""
    if log.isEnabledFor(logging.INFO):
        log.info("%s in %.1f s (%s)", name, seconds, memory_text())


def memory_text() -> str:
    """Main memory of this process, and of its GPU the most that was taken so far."""
    import psutil

    said = f"memory {psutil.Process().memory_info().rss / GIB:.1f} GiB"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        said += f", GPU at most {torch.cuda.max_memory_allocated() / GIB:.1f} GiB"
    return said


def _mute_quoting_libraries() -> None:
    for name in QUOTING_LIBRARIES:
        warnings.filterwarnings("ignore", module=name)
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _set_handler(handler: logging.Handler) -> None:
    """Make `handler` the only one of ours."""
    reset_logging()
    handler.set_name(__name__)
    logging.getLogger().addHandler(handler)


def _handler() -> logging.Handler:
    """Lines as rich lays them out on a terminal; whole ones in a file, where nobody wants them broken."""
    console = progress_console()
    if console.is_terminal:
        from rich.logging import RichHandler

        return RichHandler(console=console, show_path=False, log_time_format="%X", markup=False, highlighter=None)
    plain = logging.StreamHandler(sys.stderr)
    plain.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%X"))
    return plain
