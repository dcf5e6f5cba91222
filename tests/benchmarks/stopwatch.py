"""Where the time and the memory of a search go: every stage by itself, beside the operations that it must do.

The stages are those of `stages.py` and the rest, and their times add up to the whole. The GPU is synchronized where a
stage begins and ends. What other threads do belongs to the stage in which the main thread waits for them.
"""

import importlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from shape import Operations, synchronize
from stages import STAGES

from interp.measurement import margins, suffix_rerun
from interp.measurement.suffix_rerun import SuffixRerun
from interp.model.packing import Batch
from interp.saes.sae import Sae

REST = "everything else"
"""The time of a search that is in no stage."""
KEPT = ("screen", "patch_whole_layers")
"""Stages whose last result is kept."""


def resident(entry: str) -> float:
    """Memory of this process from Linux [GiB]: VmRSS now, VmHWM at its peak."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(entry))
    return int(line.split()[1]) / 2**20


def forget_peak() -> None:
    """Reset the peak of resident memory; that of getrusage starts at the parent's."""
    Path("/proc/self/clear_refs").write_text("5")


@dataclass
class Stage:
    """What one stage took."""

    seconds: float = 0.0
    """Its own wall time [s]."""
    sweeps: float = 0.0
    """Part of `seconds` in causal sweeps and gradients [s]."""
    edits: int = 0
    """Edited residuals, over all prompts; one of a gradient counts once."""
    flop: float = 0.0
    """Operations of the model's products, in its own number format [FLOP]."""
    sae_flop: float = 0.0
    """Operations of SAEs, in float32 [FLOP]."""
    peak: int = 0
    """Most memory that was allocated on a GPU meanwhile [bytes]."""


class Stopwatch:
    """Measures the stages of everything that runs while `running` is open.

    `operations` are those of the model that runs, and `layers` the number of its decoder layers.
    """

    def __init__(self, operations: Operations, layers: int) -> None:
        self.operations, self.layers = operations, layers
        self.stages: dict[str, Stage] = {}
        self.results: dict[str, Any] = {}
        """What the stages in KEPT returned last."""
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """While open, measure every stage; the rest of the time is that of the stage REST."""
        replaced: list[tuple[Any, str, Any]] = []

        def replace(owner: Any, name: str, function: Callable[..., Any]) -> None:
            replaced.append((owner, name, getattr(owner, name)))
            setattr(owner, name, function)

        for name, _, module in STAGES:
            owner = module and importlib.import_module(module)
            if owner and hasattr(owner, name):
                replace(owner, name, self._stage(name.strip("_"), getattr(owner, name)))
        for name in ("margins", "gradients"):
            replace(SuffixRerun, name, self._sweep(name, getattr(SuffixRerun, name)))
        for (owner, name), count in self._counted().items():
            replace(owner, name, self._counting(count, getattr(owner, name)))
        try:
            with self._in(REST):
                yield
        finally:
            for owner, name, function in reversed(replaced):
                setattr(owner, name, function)

    def table(self, rate: float, sae_rate: float) -> pd.DataFrame:
        """One row per stage, longest first, and the sum.

        `rate` and `sae_rate` are the speeds of large products in the model's format and in float32 [FLOP/s].
        """
        rows = {
            name: {
                "seconds": stage.seconds,
                "sweeps": stage.sweeps,
                "edits": stage.edits,
                "tflop": (stage.flop + stage.sae_flop) / 1e12,
                "floor_s": stage.flop / rate + stage.sae_flop / sae_rate,
                "gpu_peak_gib": stage.peak / 2**30,
            }
            for name, stage in self.stages.items()
        }
        table = pd.DataFrame.from_dict(rows, orient="index").sort_values("seconds", ascending=False)
        whole = table.sum()
        whole["gpu_peak_gib"] = table["gpu_peak_gib"].max()
        return pd.concat([table, whole.rename("all").to_frame().T])

    def _charge(self) -> float:
        """Add the time since the last change of stages to the open one; returns it [s]."""
        synchronize()
        now = time.perf_counter()
        took, self._since = now - self._since, now
        if self._open:
            stage = self.stages[self._open[-1]]
            stage.seconds += took
            for gpu in range(torch.cuda.device_count()):
                stage.peak = max(stage.peak, torch.cuda.max_memory_allocated(gpu))
                torch.cuda.reset_peak_memory_stats(gpu)
        return took

    @contextmanager
    def _in(self, name: str) -> Iterator[None]:
        self._charge()
        self.stages.setdefault(name, Stage())
        self._open.append(name)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def _stage(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any, **named: Any) -> Any:
            if threading.current_thread() is not threading.main_thread():
                return function(*given, **named)
            with self._in(name):
                found = function(*given, **named)
            if name in KEPT:
                self.results[name] = found
            return found

        return run

    def _sweep(self, name: str, sweep: Callable[..., Any]) -> Callable[..., Any]:
        # A backward pass through frozen weights costs as much as the forward pass.
        passes = 2 if name == "gradients" else 1

        def run(rerun: SuffixRerun, layers: Any, *given: Any, **named: Any) -> Any:
            self._charge()
            stage = self.stages[self._open[-1]]
            before = stage.seconds
            found = sweep(rerun, layers, *given, **named)
            self._charge()
            stage.sweeps += stage.seconds - before
            stage.edits += len(rerun.prompts) * len(layers)
            above = sum(self.layers - 1 - layer for layer in layers) / self.layers
            stage.flop += passes * len(rerun.prompts) * above * self.operations.position
            return found

        return run

    def _counting(self, count: Callable[..., Mapping[str, float]], function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any, **named: Any) -> Any:
            if self._open:
                stage = self.stages[self._open[-1]]
                for field, flop in count(*given, **named).items():
                    setattr(stage, field, getattr(stage, field) + flop)
            return function(*given, **named)

        return run

    def _counted(self) -> dict[tuple[Any, str], Callable[..., Mapping[str, float]]]:
        """(module or class, function) -> the operations of a call, by field of `Stage`."""
        image, position, logits = self.operations

        def positions(batch: Batch) -> int:
            return int((batch.segment >= 0).sum())

        def prompts(model: Any, batch: Batch, images: Any) -> Mapping[str, float]:
            return {"flop": position * positions(batch) + logits * len(batch.prompts)}

        def cached(vlm: Any, batch: Batch, images: Any) -> Mapping[str, float]:
            return {"flop": position * positions(batch)}

        def encoded(vlm: Any, images: Any) -> Mapping[str, float]:
            return {"flop": image * len(images)}

        def features(sae: Sae, x: torch.Tensor, chosen: torch.Tensor | None = None) -> Mapping[str, float]:
            return {"sae_flop": 2.0 * len(x) * len(sae.b_dec) * (sae.d_sae if chosen is None else len(chosen))}

        return {
            (margins, "final_logits"): prompts,
            (margins, "encode_images"): encoded,
            (suffix_rerun, "_cache_batch"): cached,
            (Sae, "encode"): features,
        }
