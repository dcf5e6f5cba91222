"""Gates: neurons that read a known SAE feature, directly or through a relay, and write against the answer margin."""

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd
import torch

from interp.demo.plants.carrier import plant_carrier
from interp.demo.plants.neuron import Neuron, flip_share, margin_slope, write_until
from interp.demo.plants.reading import Reading, fitted_prompts, read_signal
from interp.demo.plants.record import Plant, PlantedGate
from interp.demo.plants.relay import Relay, plant_relay
from interp.demo.plants.signal import Signal, feature_signal
from interp.measurement.margins import measure
from interp.model.vlm import Vlm
from interp.questions.schema import Question
from interp.runtime.errors import InputError
from interp.saes.sae import Sae

LEAST_FIT = 0.8
"""Least share of the variance of a gate's input that the neuron must read correctly."""


class Gate(NamedTuple):
    """A gate that is to be planted."""

    sae: Sae
    """The SAE of the feature's layer."""
    feature: int
    """Index of the feature that the gate reads."""
    write_layer: int
    """Layer whose MLP writes against the margin."""
    relay_layer: int | None = None
    """Layer in between that reads the feature for the gate; None for a gate that reads it itself."""
    question_tokens: bool = False
    """Whether the relay is a head that reads the feature at earlier tokens, not a neuron that reads the final one."""

    @property
    def name(self) -> str:
        """LAYER:FEATURE."""
        return f"{self.sae.layer}:{self.feature}"

    @property
    def layers(self) -> list[int]:
        """The layers that get a neuron."""
        return [layer for layer in (self.relay_layer, self.write_layer) if layer is not None]


def plant_gates(
    vlm: Vlm, gates: Sequence[Gate], questions: Sequence[Question], strength: float = 0.15, seed: int = 0
) -> Plant:
    """Plant gates, changing `vlm` in place; each raises the share of questions that flip by an equal part.

    `strength` is the share of these questions that shall flip in the end. Raises InputError if a layer is not between
    the feature and the last layer, or has a neuron already; if a feature is never or always active, or cannot be read
    well; and as `interp.demo.plants.neuron.write_until` does.
    """
    # A gate's neuron is fitted to what the gates below it write.
    ordered = sorted(gates, key=lambda gate: gate.write_layer)
    _check_places(vlm, ordered)
    prompts = fitted_prompts(questions, seed)
    base = flip_share(prompts, measure(vlm, prompts).margin)
    planted, reached = [], base
    for left, gate in zip(range(len(ordered), 0, -1), ordered, strict=True):
        found, reached = _plant(vlm, gate, prompts, strength, 1 / left, seed)
        planted.append(found)
    return Plant(planted, [gate.write_layer for gate in planted], reached, base)


def _check_places(vlm: Vlm, gates: Sequence[Gate]) -> None:
    taken: list[int] = []
    for gate in gates:
        if not 0 <= gate.feature < gate.sae.d_sae:
            raise InputError(f"--feature {gate.name}: the SAE has the features 0 to {gate.sae.d_sae - 1}.")
        if gate.question_tokens and gate.relay_layer is None:
            raise InputError(
                f"{gate.name}: --question-tokens needs --relay-layer, the layer of the head that carries it."
            )
        below, whose = gate.sae.layer, "feature's"
        if gate.relay_layer is not None:
            _check_layer("--relay-layer", gate.relay_layer, below, vlm.n_layers - 1, whose)
            below, whose = gate.relay_layer, "relay's"
        _check_layer("--write-layer", gate.write_layer, below, vlm.n_layers, whose)
        for layer in gate.layers:
            if layer in taken:
                raise InputError(f"Layer {layer} would get two neurons. Give every gate and relay a layer of its own.")
            taken.append(layer)


def _check_layer(option: str, layer: int, below: int, stop: int, whose: str) -> None:
    if not below < layer < stop:
        raise InputError(f"{option} {layer}: expected a layer above the {whose}, from {below + 1} to {stop - 1}.")


def _plant(
    vlm: Vlm, gate: Gate, prompts: pd.DataFrame, strength: float, part: float, seed: int
) -> tuple[PlantedGate, float]:
    """Plant one gate; what was planted, and the share of questions that flip then."""
    sae, before = gate.sae, measure(vlm, prompts, [gate.sae.layer])
    source = feature_signal(sae, sae.encode(before.residuals[:, 0].to(sae.w_enc.device)).cpu(), gate.feature)
    density = float(source.on.float().mean())
    if not gate.question_tokens and not 0.02 <= density <= 0.98:
        raise InputError(f"{gate.name} is active on {density:.0%} of the wordings, so it cannot gate flips.")
    signal, relay = source, None
    if gate.relay_layer is not None:
        relay = _relay(vlm, prompts, gate, source, gate.relay_layer, seed)
        signal = relay.signal
    reading = _reading(vlm, prompts, signal, gate.write_layer, gate.name, seed)
    slope = margin_slope(vlm, prompts, gate.write_layer, seed)
    neuron = Neuron.install(vlm, gate.write_layer, reading, -slope)
    reached = write_until(vlm, prompts, [neuron], strength, part)
    moved = reached.margin - before.margin
    on = signal.on
    formal, casual = (
        on[torch.from_numpy((prompts["register"] == register).to_numpy(copy=True))].float().mean()
        for register in ("formal", "casual")
    )
    nan = float("nan")
    planted = PlantedGate(
        layer=sae.layer,
        feature=gate.feature,
        relay_layer=gate.relay_layer,
        write_layer=gate.write_layer,
        fit=reading.fit,
        question_tokens=gate.question_tokens,
        relay_fit=nan if relay is None else relay.fit,
        density=density,
        formal_density=float(formal),
        casual_density=float(casual),
        shift_on=float(moved[on].mean()),
        shift_off=float(moved[~on].mean()),
        relay_shift=nan if relay is None else float((relay.margin - before.margin)[on].mean()),
    )
    return planted, reached.flips


def _relay(vlm: Vlm, prompts: pd.DataFrame, gate: Gate, source: Signal, layer: int, seed: int) -> Relay:
    if gate.question_tokens:
        return plant_carrier(vlm, prompts, gate.sae, gate.feature, layer, seed)
    return plant_relay(vlm, prompts, source, layer, _reading(vlm, prompts, source, layer, gate.name, seed), seed)


def _reading(vlm: Vlm, prompts: pd.DataFrame, signal: Signal, layer: int, feature: str, seed: int) -> Reading:
    """The weights that read a signal in a layer. Raises InputError if they do not read it well."""
    reading = read_signal(vlm, prompts, signal, layer, seed)
    if reading.fit < LEAST_FIT:
        raise InputError(
            f"{feature} can be read in layer {layer} with R² {reading.fit:.2f} only, below {LEAST_FIT}. Plant the gate "
            "in a layer nearer to the feature, or choose another feature."
        )
    return reading
