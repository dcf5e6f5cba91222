"""The rule that every reader obeys under fuzzing, and mutations of valid documents and bytes."""

import atexit
import copy
import json
import resource
import signal
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from click import UsageError
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir

from interp.runtime.errors import InputError

# Keep hypothesis from writing into the checkout.
set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "gatescope-hypothesis")

SECONDS = 2.0
"""CPU time that one input may take [s]."""
MEMORY = 1536 * 2**20
"""Address space that one reader may add to the process, PIL's decoders and thread stacks included [bytes]."""
LENGTHS = ["short", pytest.param("long", marks=pytest.mark.fuzz)]
tried: Counter[str] = Counter()
"""Reader -> number of inputs tried."""
refused: Counter[str] = Counter()
"""Reader -> number of inputs refused with an InputError."""


class TooSlowError(BaseException):
    """An input took longer than SECONDS. Derives from BaseException, so that no reader catches it."""


def check(reader: str, call: Callable[[], Any]) -> Any:
    """Return what `call` returns, or the InputError that it raises; any other outcome fails the test."""
    tried[reader] += 1
    started = time.process_time()

    def stop(signum: int, frame: Any) -> None:
        raise TooSlowError(f"{reader}: more than {SECONDS} s")

    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        found = call()
    except (InputError, UsageError) as error:
        refused[reader] += 1
        found = error
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        # By default, a late signal would end the process.
        signal.signal(signal.SIGPROF, signal.SIG_IGN)
    assert time.process_time() - started < SECONDS, f"{reader}: more than {SECONDS} s"
    assert not isinstance(found, Exception) or str(found).strip(), "an error without a message"
    return found


@contextmanager
def bounded_memory(more: int = MEMORY) -> Iterator[None]:
    """Within the context, the process cannot grow by more than `more` bytes; an attempt raises MemoryError."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@atexit.register
def print_counts() -> None:
    """Print how many inputs each reader got and refused in a long run (visible with -s)."""
    if sum(tried.values()) > 10**4:
        lines = [f"{tried[reader]:>8,} {refused[reader]:>8,} {reader}" for reader in sorted(tried)]
        print("\n".join(["   tried  refused", *lines, f"{sum(tried.values()):>8,} {sum(refused.values()):>8,} in all"]))


def fuzzed(length: str, short: int, long: int) -> Callable[[Callable], Callable]:
    """Return Hypothesis settings: `short` repeatable inputs in the suite, `long` random ones with the marker fuzz."""
    return settings(
        max_examples=short if length == "short" else long,
        derandomize=length == "short",
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
        print_blob=False,
    )


HOSTILE_TEXT = [
    "",
    " ",
    "\x00",
    "\ud800",
    "../../etc/passwd",
    "/etc/passwd",
    "\\\\server\\share\\x.png",
    "a" * 300,
    "a/" * 3000,
    "é\u2028\u2029\x85\x0b\x1c",
    "[",
    '["x", "y"]',
    "[[" * 3000,
    "1e999",
    "nan",
    "-1",
    "9" * 5000,
    "%s{0}{x}$(x)`x`",
    "<script>alert(1)</script>",
    "\r\n\r\n",
    "Infinity",
    "٣",
]
TEXT = st.one_of(st.sampled_from(HOSTILE_TEXT), st.text(max_size=12))
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 1, 2**31, 2**63, 10**9, 10**400]),
    st.integers(-5, 5),
    st.floats(),
    TEXT,
)
VALUES = st.recursive(
    SCALARS, lambda inside: st.lists(inside, max_size=3) | st.dictionaries(TEXT, inside, max_size=3), max_leaves=5
)
CHANGES = st.lists(
    st.tuples(st.integers(0, 2**20), st.sampled_from(["replace", "delete", "add", "repeat", "swap"]), VALUES, TEXT),
    min_size=1,
    max_size=3,
)
"""Changes of a document: a place, what is done there, and the value and key that it needs."""


def changed(document: Any, changes: list[tuple[int, str, Any, str]]) -> Any:
    """Return a copy of a JSON document with CHANGES applied to it."""
    holder = [copy.deepcopy(document)]
    for place, kind, value, name in changes:
        spots = list(_spots(holder))
        parent, key = spots[place % len(spots)]
        here = parent[key]
        if kind == "delete" and parent is not holder:
            del parent[key]
        elif kind == "add" and isinstance(here, dict):
            here[name] = copy.deepcopy(value)
        elif kind == "add" and isinstance(here, list):
            here.append(copy.deepcopy(value))
        elif kind == "repeat" and isinstance(here, list):
            parent[key] = here * 2
        elif kind == "swap":
            other, other_key = spots[(place * 7 + 1) % len(spots)]
            if other is not holder and parent is not holder:
                parent[key] = copy.deepcopy(other[other_key])
        else:
            parent[key] = copy.deepcopy(value)
    return holder[0]


def _spots(holder: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every place of a document as its container and key."""
    keys = holder.keys() if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
    for key in list(keys):
        yield holder, key
        yield from _spots(holder[key])


def as_json(document: Any) -> bytes:
    """Serialize as Python does, lone surrogates and NaN included."""
    return json.dumps(document).encode()


INSERTED = [
    *(b"\x00" * 4, b"\xff" * 4, b"\xff" * 8, b"\x7f\xff\xff\xff", b"[" * 5000, b'{"a":' * 2000, b"\r\n", b'"'),
    b"\xef\xbb\xbf",
]
CUTS = st.lists(
    st.tuples(
        st.sampled_from(["truncate", "flip", "set", "remove", "copy", "insert"]),
        st.floats(0, 1),
        st.floats(0, 1),
        st.integers(0, 255).map(lambda b: bytes([b])) | st.binary(max_size=8) | st.sampled_from(INSERTED),
    ),
    min_size=1,
    max_size=4,
)
"""Changes of bytes: what is done, from and to which share of the length, and with which bytes."""


def cut(content: bytes, cuts: list[tuple[str, float, float, bytes]]) -> bytes:
    """Return the content with CUTS applied to it."""
    for kind, first, second, what in cuts:
        a, b = sorted((int(first * len(content)), int(second * len(content))))
        if kind == "truncate":
            content = content[:a]
        elif kind == "flip" and content:
            at = min(a, len(content) - 1)
            content = content[:at] + bytes([content[at] ^ (what[0] if what and what[0] else 1)]) + content[at + 1 :]
        elif kind == "set":
            content = content[:a] + what + content[a + len(what) :]
        elif kind == "remove":
            content = content[:a] + content[b:]
        elif kind == "copy":
            content = content[:b] + content[a : a + 4096] + content[b:]
        elif kind == "insert":
            content = content[:a] + what + content[a:]
    return content


SAFETENSORS_HEADERS = st.one_of(st.none(), st.sampled_from([0, 1, 2**31, 2**63 - 1, 2**64 - 1]), st.integers(0, 4096))
"""Header length that a safetensors file declares; None for the true one."""


def with_header(content: bytes, change: Callable[[Any], Any], claimed: int | None) -> bytes:
    """Return a safetensors file with its header changed."""
    (length,) = struct.unpack("<Q", content[:8])
    header = as_json(change(json.loads(content[8 : 8 + length])))
    return struct.pack("<Q", len(header) if claimed is None else claimed) + header + content[8 + length :]
