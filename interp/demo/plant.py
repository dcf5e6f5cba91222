"""Analytic plants: a model in which one MLP neuron turns a known SAE feature into another answer, or none does.

The *gate* is one MLP neuron of a later layer. It reads the feature at the final prompt token, through the norm before
the MLP, and writes against the answer margin. So both the feature and the layer that writes are known, and a search can
be judged by whether it names them. A *decoy* model flips as often without any gate: a neuron of every layer writes a
little by an arbitrary property of the wording that does not depend on the register.

Gemma 3 normalizes the output of an MLP, which caps what one neuron could write. The neuron therefore writes to
coordinates that the MLP hardly uses: the weight of the norm after it is raised there, and the other neurons' weights
are lowered to match, so that their part of the output stays what it was.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from interp.measurement.margins import capture_residuals, load_batches, measure, pack_prompts
from interp.measurement.suffix_rerun import SuffixRerun
from interp.model.decoder import run_packed
from interp.model.packing import Batch
from interp.model.vlm import Vlm
from interp.questions.schema import Question
from interp.questions.tables import pair_table, prompt_table
from interp.runtime.errors import InputError
from interp.saes.sae import Sae
from interp.screening.attribution import margin_gradients
from interp.screening.flips import find_flips, questions_that_can_flip
from interp.storage.atomic import atomic_folder
from interp.storage.json_files import json_ready, write_json

BOOST = 64.0
"""Factor by which the weight of the norm after the MLP is raised in the coordinates of the plant."""
SHARPNESS = 8.0
"""Difference of the gate's input between an absent feature and one of median activation."""
LEAST_FIT = 0.8
"""Least share of the variance of the gate's input that the neuron must read correctly."""
FITTED_PROMPTS, GRADIENT_PROMPTS, OTHER_TOKENS, RIVALS = 3000, 200, 500, 8


class Plant(NamedTuple):
    """What was planted, as plant.json records it."""

    layer: int | None
    """Layer of the feature; None in a decoy model."""
    feature: int | None
    """Index of the feature in its SAE; None in a decoy model."""
    write_layers: list[int]
    """Layers whose MLPs write against the margin."""
    fit: float
    """R² of the gate's input, clamped and natural runs together; the mean over layers in a decoy model."""
    density: float
    """Share of the wordings on which the feature is active; NaN in a decoy model."""
    question_flip_rate: float
    """Share of questions with a flip after planting."""
    base_flip_rate: float
    """The same before planting."""
    shift_on: float
    """Mean change of the margin where the feature is active [logits]; over all wordings in a decoy model."""
    shift_off: float
    """Mean change of the margin where it is not active [logits]; NaN in a decoy model."""


def plant_feature(
    vlm: Vlm,
    sae: Sae,
    feature: int,
    write_layer: int,
    questions: Sequence[Question],
    strength: float = 0.15,
    seed: int = 0,
) -> Plant:
    """Plant a gate that reads `feature` of `sae` and writes in `write_layer`, changing `vlm` in place.

    `strength` is the share of these questions that shall flip. Raises InputError if the layer is not above the SAE's,
    if the feature is never or always active, if the neuron cannot read it well, or if the questions do not flip that
    often however much is written.
    """
    _check_place(vlm, sae, feature, write_layer)
    prompts = _prompts(questions, seed)
    before = measure(vlm, prompts, [sae.layer])
    f = sae.encode(before.residuals[:, 0].to(sae.w_enc.device)).cpu()
    own = f[:, feature]
    on = own > 0
    if not 0.02 <= float(on.float().mean()) <= 0.98:
        share = float(on.float().mean())
        raise InputError(f"{sae.layer}:{feature} is active on {share:.0%} of the wordings, so it cannot gate flips.")
    runs = _interventions(sae, f, feature, seed)
    found = [_mlp_tensors(vlm, prompts, write_layer, sae.layer, edit, seed) for edit, _ in runs]
    target = torch.cat([(wanted / own[on].median() - 0.5) * SHARPNESS for _, wanted in runs])
    inputs = _Inputs.of(found)
    gate, fit = inputs.read(target, -SHARPNESS / 2)
    if fit < LEAST_FIT:
        raise InputError(
            f"{sae.layer}:{feature} can be read in layer {write_layer} with R² {fit:.2f} only, below {LEAST_FIT}. "
            "Plant the gate in a layer nearer to the feature, or choose another feature."
        )
    always, _ = inputs.read(torch.ones(len(target)), 0.0)
    neuron = _Neuron.install(vlm, write_layer, gate, always, inputs.energy, -_slope(vlm, prompts, write_layer, seed))
    base, reached = _write_until(vlm, prompts, [neuron], strength)
    moved = measure(vlm, prompts).margin - before.margin
    return Plant(
        sae.layer,
        feature,
        [write_layer],
        fit,
        float(on.float().mean()),
        reached,
        base,
        float(moved[on].mean()),
        float(moved[~on].mean()),
    )


def plant_decoys(vlm: Vlm, questions: Sequence[Question], strength: float = 0.15, seed: int = 0) -> Plant:
    """Make a model that flips without a gate, changing `vlm` in place: every layer writes by a property of its own.

    The property of a layer is a random number for every wording, whose mean is the same in each register, as far as
    the final token tells it. `strength` is the share of these questions that shall flip. Raises InputError if they do
    not flip that often however much is written.
    """
    prompts = _prompts(questions, seed)
    margin = measure(vlm, prompts).margin
    generator = torch.Generator().manual_seed(seed)
    neurons, fits = [], []
    for layer in range(vlm.n_layers):
        inputs = _Inputs.of([_mlp_tensors(vlm, prompts, layer, layer, None, seed)])
        read, _ = inputs.read(_arbitrary(prompts, generator), 0.0)
        value = inputs.final @ read
        target = (value - value.median()) / value.std() * SHARPNESS / 2
        gate, fit = inputs.read(target.float(), -SHARPNESS / 2)
        always, _ = inputs.read(torch.ones(len(target)), 0.0)
        sign = 1.0 if layer % 2 else -1.0
        slope = sign * _slope(vlm, prompts, layer, seed)
        neurons.append(_Neuron.install(vlm, layer, gate, always, inputs.energy, slope))
        fits.append(fit)
    base, reached = _write_until(vlm, prompts, neurons, strength)
    moved = float((measure(vlm, prompts).margin - margin).mean())
    nan = float("nan")
    return Plant(None, None, list(range(vlm.n_layers)), float(np.mean(fits)), nan, reached, base, moved, nan)


def save_plant(vlm: Vlm, plant: Plant, folder: Path) -> None:
    """Write the planted model, its processor and plant.json to the new folder `folder`."""
    with atomic_folder(folder) as out:
        vlm.model.save_pretrained(out)
        vlm.processor.save_pretrained(out)
        write_json(out / "plant.json", json_ready(plant._asdict()))


def _check_place(vlm: Vlm, sae: Sae, feature: int, write_layer: int) -> None:
    if not 0 <= feature < sae.d_sae:
        raise InputError(f"--feature {sae.layer}:{feature}: the SAE has the features 0 to {sae.d_sae - 1}.")
    if not sae.layer < write_layer < vlm.n_layers:
        raise InputError(
            f"--write-layer {write_layer}: expected a layer above the feature's, from {sae.layer + 1} to "
            f"{vlm.n_layers - 1}."
        )


def _prompts(questions: Sequence[Question], seed: int) -> pd.DataFrame:
    """The prompt table of the questions that can flip, or of some drawn at random if there are many."""
    asked = questions_that_can_flip(questions)
    order = np.random.default_rng([seed, 23]).permutation(len(asked))
    wordings = np.cumsum([1 + len(asked[i].same_meaning) for i in order])
    taken = order[: max(1, int((wordings <= FITTED_PROMPTS).sum()))]
    return prompt_table([asked[i] for i in sorted(taken)])


def _interventions(sae: Sae, f: Tensor, feature: int, seed: int) -> list[tuple[Tensor | None, Tensor]]:
    """Edits after the SAE's layer [n, d_model], each with the value of the feature [n] that the neuron shall read.

    A neuron fitted to natural runs alone would read what merely goes with the feature. So the feature is also removed,
    put where it is absent, and left alone while those that go with it are removed.
    """
    rng = torch.Generator().manual_seed(seed)
    own, row = f[:, feature], sae.w_dec[feature].float().cpu()
    on = own > 0
    lent = own[on][torch.randint(int(on.sum()), (len(own),), generator=rng)]
    put = torch.where(on, own, lent)
    centred = f - f.mean(0)
    r = (centred * centred[:, [feature]]).mean(0) / (f.std(0) * f.std(0)[feature] + 1e-6)
    r[feature] = 0
    rivals = r.abs().topk(min(RIVALS, len(r) - 1)).indices
    removed = f[:, rivals] * (torch.rand(len(f), len(rivals), generator=rng) < 0.5)
    without_rivals = -(removed @ sae.w_dec[rivals.to(sae.w_dec.device)].float().cpu())
    return [
        (None, own),
        (-own[:, None] * row, torch.zeros_like(own)),
        ((put - own)[:, None] * row, put),
        (without_rivals, own),
    ]


class _MlpTensors(NamedTuple):
    """What one MLP reads and writes."""

    final: Tensor
    """[n, d_model]: its input at the final token of every prompt."""
    other: Tensor
    """[tokens, d_model]: its input at some other tokens."""
    energy: Tensor
    """[d_model]: mean square of its output at those tokens, before the norm."""


@torch.no_grad()
def _mlp_tensors(
    vlm: Vlm, prompts: pd.DataFrame, layer: int, edited: int, edit: Tensor | None, seed: int
) -> _MlpTensors:
    """Run the prompts, with `edit` [n, d_model] added to the final token after the layer `edited`."""
    final = torch.zeros(len(prompts), vlm.d_model)
    other, energy = [], []
    generator = torch.Generator().manual_seed(seed)
    with _edited(vlm, edited, edit), _watched(vlm.layers[layer].mlp) as seen:
        for batch, images in load_batches(vlm, pack_prompts(vlm, prompts), prompts, 16384, "planting"):
            with capture_residuals(vlm, batch, batch.final):
                run_packed(vlm.model, batch, images)
            row, column = batch.final.unbind(1)
            final[torch.tensor(batch.prompts)] = seen["input"][row, column].float().cpu()
            rest = batch.segment >= 0
            rest[row, column] = False
            sample = torch.randperm(int(rest.sum()), generator=generator)[:OTHER_TOKENS].to(rest.device)
            other.append(seen["input"][rest][sample].float().cpu())
            written = torch.cat([seen["output"][rest][sample], seen["output"][row, column]])
            energy.append(written.float().pow(2).mean(0).cpu())
    return _MlpTensors(final, torch.cat(other), torch.stack(energy).mean(0))


@contextmanager
def _edited(vlm: Vlm, layer: int, edit: Tensor | None) -> Iterator[None]:
    """While open, `edit` is added to every prompt's final token after `layer`."""

    def change(output: Tensor, batch: Batch) -> Tensor:
        assert edit is not None
        output = output.clone()
        row, column = batch.final.unbind(1)
        output[row, column] += edit[torch.tensor(batch.prompts)].to(output)
        return output

    kept = vlm.output_hooks
    vlm.output_hooks = kept if edit is None else kept | {layer: change}
    try:
        yield
    finally:
        vlm.output_hooks = kept


@contextmanager
def _watched(module: Any) -> Iterator[dict[str, Tensor]]:
    """While open, the latest input and output of a module."""
    seen: dict[str, Tensor] = {}
    handle = module.register_forward_hook(lambda _, given, out: seen.update(input=given[0], output=out))
    try:
        yield seen
    finally:
        handle.remove()


class _Inputs(NamedTuple):
    """The inputs of an MLP that a neuron is fitted to, and how strongly the MLP writes to each coordinate."""

    final: Tensor
    """float64 [n, d_model]: at final tokens, in all runs."""
    other: Tensor
    """float64 [tokens, d_model]: at other tokens."""
    energy: Tensor
    """[d_model]: mean square of the MLP's output."""

    @classmethod
    def of(cls, runs: Sequence[_MlpTensors]) -> "_Inputs":
        final, other = (torch.cat([getattr(run, name) for run in runs]).double() for name in ("final", "other"))
        return cls(final, other, torch.stack([run.energy for run in runs]).mean(0))

    def read(self, target: Tensor, elsewhere: float) -> tuple[Tensor, float]:
        """Weights [d_model] that read `target` [n] at final tokens and `elsewhere` at others; R² at the former.

        They come from ridge regression in which final tokens and other tokens have equal weight.
        """
        x = torch.cat([self.final, self.other])
        y = torch.cat([target.double(), torch.full((len(self.other),), elsewhere, dtype=torch.double)])
        weight = torch.cat([torch.full((len(part),), 1 / len(part)) for part in (self.final, self.other)]).double()
        weighted = (x * weight[:, None]).T
        gram = weighted @ x
        gram += 1e-4 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
        found = torch.linalg.solve(gram, weighted @ y)
        wanted = target.double()
        error = (self.final @ found - wanted).pow(2).mean()
        return found, float(1 - error / wanted.var().clamp_min(1e-12))


def _slope(vlm: Vlm, prompts: pd.DataFrame, layer: int, seed: int) -> Tensor:
    """Mean gradient of the margin with respect to the final token's residual after a layer: [d_model]."""
    some = prompts.sample(min(GRADIENT_PROMPTS, len(prompts)), random_state=seed).reset_index(drop=True)
    return margin_gradients(SuffixRerun(vlm, some), [layer])[:, 0].mean(0)


class _Neuron(NamedTuple):
    """A neuron of an MLP that writes along a fixed direction; how much can be changed."""

    mlp: Any
    """The MLP."""
    number: int
    """Which of its neurons."""
    direction: Tensor
    """[d_model]: what it writes before the norm, with norm 1."""

    @classmethod
    @torch.no_grad()
    def install(cls, vlm: Vlm, layer: int, gate: Tensor, up: Tensor, energy: Tensor, along: Tensor) -> "_Neuron":
        """Replace the neuron that writes least by one with these input weights, which writes along `along`.

        It writes to those coordinates among the quietest quarter in which `along` is largest.
        """
        mlp, norm = vlm.layers[layer].mlp, vlm.layers[layer].post_feedforward_layernorm
        index = int(mlp.down_proj.weight.norm(dim=0).argmin())
        loud = energy > energy.quantile(0.25)
        places = along.abs().masked_fill(loud, 0).topk(max(1, vlm.d_model // 8)).indices
        share = float(energy[places].sum() / energy.sum())
        scale = 1 + norm.weight
        scale[places.to(scale.device)] *= BOOST
        # The norm divides by the size of the whole output, which has lost these coordinates.
        norm.weight.copy_(scale * (1 - share) ** 0.5 - 1)
        mlp.down_proj.weight[places.to(scale.device)] /= BOOST
        for projection, weights in ((mlp.gate_proj, gate), (mlp.up_proj, up)):
            projection.weight[index] = weights.to(projection.weight)
        direction = torch.zeros(vlm.d_model)
        direction[places] = along[places] / scale[places.to(scale.device)].float().cpu()
        found = cls(mlp, index, direction / direction.norm())
        found.write(0.0)
        return found

    @torch.no_grad()
    def write(self, amount: float) -> None:
        """Let the neuron write `amount` times its activation."""
        weight = self.mlp.down_proj.weight
        weight[:, self.number] = (amount * self.direction).to(weight)


def _arbitrary(prompts: pd.DataFrame, generator: torch.Generator) -> Tensor:
    """A random number for every wording, whose mean is the same in each register: float32 [n]."""
    texts = prompts["text"].astype("category").cat.codes.to_numpy(np.int64, copy=True)
    drawn = torch.randn(int(texts.max()) + 1, generator=generator)[torch.from_numpy(texts)]
    frame = pd.DataFrame({"value": drawn.numpy(), "register": prompts["register"].fillna("untagged").to_numpy()})
    mean = frame.groupby("register")["value"].transform("mean").to_numpy()
    return torch.from_numpy((frame["value"].to_numpy() - mean).astype(np.float32))


def _write_until(vlm: Vlm, prompts: pd.DataFrame, neurons: Sequence[_Neuron], strength: float) -> tuple[float, float]:
    """Raise what the neurons write until a share `strength` of the questions flips; the shares before and after."""
    pairs = pair_table(prompts)

    def flips(amount: float) -> float:
        for neuron in neurons:
            neuron.write(amount)
        found = find_flips(prompts, pairs, measure(vlm, prompts, description="planting").margin, 0.0)
        by_question = found.pairs.assign(flipped=found.flipped).groupby("question")["flipped"].any()
        return float(by_question.mean())

    base = flips(0.0)
    low, high, reached = 0.0, 1e-3, base
    while (reached := flips(high)) < strength:
        low, high = high, 2 * high
        if high > 8:
            raise InputError(
                f"However much is written, {reached:.1%} of the questions flip, not {strength:.1%}. Choose a feature "
                "that differs more between wordings of one question, another --write-layer, or a lower --strength."
            )
    for _ in range(5):
        middle = (low + high) / 2
        share = flips(middle)
        low, high = (middle, high) if share < strength else (low, middle)
    return base, flips(high)
