"""Where the time of a whole `interp find-features` goes, from the shell prompt to the end of the process.

    OMP_NUM_THREADS=2 python tests/benchmarks/whole.py
    python tests/benchmarks/whole.py --repeats 5 -- --questions mine.jsonl --images images/

What follows `--` are options of the command; `--out` is a temporary folder. Every run is a process of its own, in which
a thread looks every 5 ms at what the main thread does and gives the time since then to the innermost stage
(`stages.py`), so that the rows add up to the wall time; the processor time is that of all threads. Printed is the run
of median wall time. A further run counts the operations of every stage; the floor is their time at the speed of a large
matrix product.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import nullcontext, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from stages import STAGES

if TYPE_CHECKING:
    import pandas as pd

TITLES = {stage.function: stage.title for stage in STAGES if stage.title}
"""Name of a function -> the row that it and what it calls belong to, unless an inner function names another."""
OUTSIDE = "start and end of the process"
"""What happens before the thread of `Clock` starts and after the command has ended."""


class Clock(threading.Thread):
    """Gives the wall and processor time of the main thread to stages."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.main = threading.main_thread().ident
        self.wall, self.cpu = Counter[str](), Counter[str]()
        self.stopped = threading.Event()

    def run(self) -> None:
        """Look until `stopped` is set."""
        wall, cpu = time.perf_counter(), time.process_time()
        while not self.stopped.wait(0.005):
            stage = stage_of(sys._current_frames().get(self.main or 0))
            now, used = time.perf_counter(), time.process_time()
            self.wall[stage] += now - wall
            self.cpu[stage] += used - cpu
            wall, cpu = now, used


def stage_of(frame: FrameType | None) -> str:
    """The stage of the innermost function that has one."""
    while frame is not None:
        if frame.f_code.co_name in TITLES:
            return TITLES[frame.f_code.co_name]
        frame = frame.f_back
    return TITLES["main"]


def counted() -> tuple[Any, Counter[str]]:
    """A mode of torch under which operations [FLOP] are added up by stage, and the sums."""
    from flop_formulas import flop_registry
    from torch.utils._python_dispatch import TorchDispatchMode

    found = Counter[str]()

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if func._overloadpacket in flop_registry:
                found[stage_of(sys._getframe())] += flop_registry[func._overloadpacket](
                    *args, **(kwargs or {}), out_val=out
                )
            return out

    return Counting(), found


def one(result: Path, count: bool, arguments: list[str]) -> None:
    """Run the command in this process, and write its times, or the counted operations, into the file `result`."""
    clock = Clock()
    if not count:
        clock.start()
    from interp.cli.app import main

    sys.argv = ["interp", "find-features", *arguments]
    mode, flop = counted() if count else (nullcontext(), Counter[str]())
    with mode, suppress(SystemExit):
        main()
    clock.stopped.set()
    result.write_text(json.dumps({"flop": flop, "wall": clock.wall, "cpu": clock.cpu}), encoding="utf-8")


def run_apart(arguments: list[str], count: bool) -> "tuple[pd.DataFrame, float]":
    """What `one` found in a process of its own, by stage, and the operations of a second [FLOP/s] right after it."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        mine = [sys.executable, __file__, "--one", str(result), *(["--count"] if count else [])]
        before, started = os.times(), time.perf_counter()
        # Operations are counted in the main thread, which computes all batches itself if it has one core.
        cores = {"OMP_NUM_THREADS": "1"} if count else {}
        command = [*mine, "--", "--out", f"{folder}/run", *arguments]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env=os.environ | cores)
        wall, after = time.perf_counter() - started, os.times()
        table = pd.DataFrame(json.loads(result.read_text(encoding="utf-8"))).reindex(list(TITLES.values()))
    used = after.children_user - before.children_user + after.children_system - before.children_system
    table.loc[OUTSIDE] = {"wall": wall - table["wall"].sum(), "cpu": used - table["cpu"].sum(), "flop": 0}
    return table.fillna(0), matmul_rate(torch.device("cpu"), torch.float32)


def main() -> None:
    """Run the command several times and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("arguments", nargs="*", metavar="...", help="options of find-features, after --")
    options = parser.parse_args()
    runs = [run_apart(options.arguments, count=False) for _ in range(options.repeats)]
    flop, rate = run_apart(options.arguments, count=True)[0]["flop"], statistics.median(rate for _, rate in runs)
    whole = sorted((table for table, _ in runs), key=lambda table: table["wall"].sum())[len(runs) // 2]
    table = pd.DataFrame({"wall [s]": whole["wall"], "processor [s]": whole["cpu"], "floor [s]": flop / rate})
    table.loc["all"] = table.sum()
    report({"threads": torch.get_num_threads(), "runs": options.repeats, "matmul": f"{rate / 1e9:.0f} GFLOP/s"}, table)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        counting = sys.argv[3] == "--count"
        one(Path(sys.argv[2]), counting, sys.argv[sys.argv.index("--") + 1 :])
    else:
        # Not in the measured process, which must import only what the command does.
        import pandas as pd
        import torch
        from shape import matmul_rate, report

        main()
