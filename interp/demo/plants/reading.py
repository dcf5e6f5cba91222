"""Fitting the input weights of a planted neuron, by ridge regression on natural and edited runs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from interp.causal.edited_runs import final_token_edit
from interp.demo.plants.signal import Signal, interventions
from interp.measurement.margins import Capture, load_batches, pack_prompts
from interp.model.decoder import run_below
from interp.model.memory_model import BATCH_TOKENS
from interp.model.packing import Row, batches
from interp.model.vlm import Vlm
from interp.questions.schema import Question
from interp.questions.tables import prompt_table
from interp.screening.flips import questions_that_can_flip

SHARPNESS = 8.0
"""Difference of the gate's input between an absent signal and one of median amount."""
FITTED_PROMPTS, OTHER_TOKENS = 3000, 500


class Reading(NamedTuple):
    """Input weights of a neuron, and how strongly its MLP writes to each coordinate."""

    gate: Tensor
    """float64 [d_model]: the gate projection, -SHARPNESS / 2 without the signal and SHARPNESS / 2 with it."""
    up: Tensor
    """float64 [d_model]: the up projection, 1 at final tokens and 0 at others."""
    energy: Tensor
    """[d_model]: mean square of the MLP's output before the norm."""
    fit: float
    """R² of `gate` at final tokens, all runs together."""


def fitted_prompts(questions: Sequence[Question], seed: int) -> pd.DataFrame:
    """The prompt table of the questions that can flip, or of some drawn at random if there are many."""
    asked = questions_that_can_flip(questions)
    order = np.random.default_rng([seed, 23]).permutation(len(asked))
    wordings = np.cumsum([1 + len(asked[i].same_meaning) for i in order])
    taken = order[: max(1, int((wordings <= FITTED_PROMPTS).sum()))]
    return prompt_table([asked[i] for i in sorted(taken)])


def read_signal(vlm: Vlm, prompts: pd.DataFrame, signal: Signal, layer: int, seed: int) -> Reading:
    """Weights with which a neuron of `layer` reads a signal of an earlier layer, and nothing that goes with it."""
    runs = interventions(signal, seed)
    found = [mlp_tensors(vlm, prompts, layer, signal.layer, edit, seed) for edit, _ in runs]
    target = torch.cat([(wanted / signal.level - 0.5) * SHARPNESS for _, wanted in runs])
    return MlpInputs.of(found).reading(target)


class MlpTensors(NamedTuple):
    """What one MLP reads and writes."""

    final: Tensor
    """[n, d_model]: its input at the final token of every prompt."""
    other: Tensor
    """[tokens, d_model]: its input at some other tokens."""
    energy: Tensor
    """[d_model]: mean square of its output at those tokens, before the norm."""


@torch.no_grad()
def mlp_tensors(vlm: Vlm, prompts: pd.DataFrame, layer: int, edited: int, edit: Tensor | None, seed: int) -> MlpTensors:
    """Run the prompts, with `edit` [n, d_model] added to the final token after the layer `edited`."""
    final = torch.zeros(len(prompts), vlm.d_model)
    other, energy = [], []
    generator = torch.Generator().manual_seed(seed)
    editing = nullcontext() if edit is None else final_token_edit(vlm, edited, edit)
    with editing, watched(vlm.layers[layer].mlp) as seen:
        for batch, images in load_batches(vlm, full_batches(vlm, prompts), prompts, "planting"):
            run_below(vlm.model, batch, images, layer + 1, after=Capture(vlm, batch, batch.final))
            row, column = batch.final.unbind(1)
            final[torch.tensor(batch.prompts)] = seen["input"][row, column].float().cpu()
            rest = batch.segment >= 0
            rest[row, column] = False
            sample = torch.randperm(int(rest.sum()), generator=generator)[:OTHER_TOKENS].to(rest.device)
            other.append(seen["input"][rest][sample].float().cpu())
            written = torch.cat([seen["output"][rest][sample], seen["output"][row, column]])
            energy.append(written.float().pow(2).mean(0).cpu())
    return MlpTensors(final, torch.cat(other), torch.stack(energy).mean(0))


def full_batches(vlm: Vlm, prompts: pd.DataFrame) -> Iterator[list[Row]]:
    """The packed batches of a prompt table, as large on a CPU as on a GPU, because tokens are sampled from each."""
    return batches(pack_prompts(vlm, prompts), BATCH_TOKENS, None)


@contextmanager
def watched(module: Any) -> Iterator[dict[str, Tensor]]:
    """While open, the latest input and output of a module."""
    seen: dict[str, Tensor] = {}
    handle = module.register_forward_hook(lambda _, given, out: seen.update(input=given[0], output=out))
    try:
        yield seen
    finally:
        handle.remove()


class MlpInputs(NamedTuple):
    """The inputs of an MLP that a neuron is fitted to, in all runs together."""

    final: Tensor
    """float64 [n, d_model]: at final tokens."""
    other: Tensor
    """float64 [tokens, d_model]: at other tokens."""
    energy: Tensor
    """[d_model]: mean square of the MLP's output."""

    @classmethod
    def of(cls, runs: Sequence[MlpTensors]) -> "MlpInputs":
        """The inputs of several runs, one after the other."""
        final, other = (torch.cat([getattr(run, name) for run in runs]).double() for name in ("final", "other"))
        return cls(final, other, torch.stack([run.energy for run in runs]).mean(0))

    def reading(self, target: Tensor) -> Reading:
        """The input weights of a neuron whose gate reads `target` [n] at final tokens and is shut at others."""
        gate, fit = self.read(target, -SHARPNESS / 2)
        always, _ = self.read(torch.ones(len(target)), 0.0)
        return Reading(gate, always, self.energy, fit)

    def read(self, target: Tensor, elsewhere: float) -> tuple[Tensor, float]:
        """Weights [d_model] that read `target` [n] at final tokens and `elsewhere` at others; R² at the former.

        They come from ridge regression in which final tokens and other tokens have equal weight.
        """
        x = torch.cat([self.final, self.other])
        y = torch.cat([target.double(), torch.full((len(self.other),), elsewhere, dtype=torch.double)])
        weight = torch.cat([torch.full((len(part),), 1 / len(part)) for part in (self.final, self.other)]).double()
        found = ridge(x, y, weight)
        return found, r_squared(self.final @ found, target.double())


def ridge(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """Weights [d_model] of the ridge regression of `y` [n] on `x` [n, d_model], all float64; rows count by `weight`."""
    weighted = (x * weight[:, None]).T
    gram = weighted @ x
    gram += 1e-4 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    return torch.linalg.solve(gram, weighted @ y)


def r_squared(read: Tensor, wanted: Tensor, weight: Tensor | None = None) -> float:
    """Share of the variance of `wanted` [n] that `read` [n] gets right; rows count by `weight`, by default the same."""
    if weight is None:
        return float(1 - (read - wanted).pow(2).mean() / wanted.var().clamp_min(1e-12))
    spread = (weight * (wanted - weight @ wanted / weight.sum()).pow(2)).sum()
    return float(1 - (weight * (read - wanted).pow(2)).sum() / spread.clamp_min(1e-12))
