"""Run commands in this process and record what they do to the rest of the machine.

    python watched.py COMMANDS RECORD ALLOWED ...

COMMANDS is a JSON file with a list of [program, argument, ...]. RECORD is the JSON file to write: for every command its
exit code, output, errors and forbidden actions. Only files below the ALLOWED folders may be written. An audit hook
cannot be removed again. It records actions instead of preventing them, so no `except` can hide one.
"""

import io
import json
import os
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

NETWORK = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.bind", "socket.sendto"}
IPV6 = ("socket.bind", (("::1", 0),))
"""When imported, urllib3 binds a socket to see whether the machine supports IPv6, and sends nothing through it."""
ALLOWED = {"fc-list"}
"""matplotlib runs this once on each machine, when it first draws, to list the fonts."""
PROGRAMS = {
    *("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn"),
    "os.startfile",
}
WRITES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def watch(allowed: list[str]) -> list[str]:
    """Install the audit hook and return the list that it fills."""
    noted: list[str] = []
    inside = [os.path.realpath(folder) + os.sep for folder in allowed]

    def may_write(path: object, folder: int = -1) -> bool:
        if isinstance(path, int) or path is None:
            return True
        beside = os.readlink(f"/proc/self/fd/{folder}") if isinstance(folder, int) and folder >= 0 else ""
        place = os.path.realpath(os.path.join(beside, os.fsdecode(path)))  # type: ignore[call-overload]
        return place == os.devnull or any((place + os.sep).startswith(folder) for folder in inside)

    def note(event: str, what: object) -> None:
        # The frames of this file and of the import system are uninformative.
        called = [f for f in traceback.extract_stack() if "importlib" not in f.filename and __file__ != f.filename]
        where = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(called[-6:]))
        noted.append(f"{event} {what!r} at {where}")

    def hook(event: str, arguments: tuple) -> None:
        if event in NETWORK and (event, arguments[1:]) != IPV6:
            note(event, arguments[1:])
        elif event in PROGRAMS and os.path.basename(str(arguments[0])) not in ALLOWED:
            note(event, arguments[:2])
        elif event == "pickle.find_class":
            note(event, arguments)
        elif event == "open":
            path, mode, flags = arguments
            writes = any(c in str(mode) for c in "wax+") if isinstance(mode, str) else bool((flags or 0) & WRITING)
            if writes and not may_write(path):
                note("open for writing", path)
        elif event in WRITES and not may_write(arguments[0], arguments[-1]):
            note(event, arguments[0])

    sys.addaudithook(hook)
    return noted


def imported_from(folder: str) -> list[str]:
    """Return the modules whose file lies below a folder."""
    files = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
    inside = os.path.realpath(folder) + os.sep
    # Some modules name a file that does not exist.
    return [n for n, f in files.items() if f and os.path.isfile(f) and os.path.realpath(f).startswith(inside)]


def run(command: list[str]) -> tuple[object, str, str]:
    """Run one command; return its exit code, output and errors."""
    from finetune.cli.app import main as finetune
    from interp.cli.app import main as interp

    sys.argv = command
    out, errors = io.StringIO(), io.StringIO()
    code: object = 0
    with redirect_stdout(out), redirect_stderr(errors):
        try:
            {"interp": interp, "finetune": finetune}[command[0]]()
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            code = traceback.format_exc()
    return code, out.getvalue(), errors.getvalue()


def main() -> None:
    commands, record, *allowed = sys.argv[1:]
    # An installed command does not have this file's folder on its import path.
    sys.path = [place for place in sys.path if place and os.path.realpath(place) != os.path.dirname(__file__)]
    noted = watch(allowed)
    import torch

    def refused(*arguments: object, **options: object) -> None:
        noted.append("torch.load")

    torch.load = torch.serialization.load = refused  # noqa: TID251
    torch.set_num_threads(1)
    done = []
    for command in json.loads(Path(commands).read_text()):
        noted.clear()
        code, out, errors = run(command)
        noted += [f"import of {name} from the working folder" for name in imported_from(os.getcwd())]
        done.append({"command": command, "code": code, "out": out, "errors": errors, "noted": list(noted)})
    Path(record).write_text(json.dumps(done, indent=1))


if __name__ == "__main__":
    main()
