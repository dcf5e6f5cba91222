"""Newly built worlds and plants on the terminal."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from interp.runtime.console import results_console
from interp.views.terminal.show import bold


def show_world(world: dict[str, Any], out: Path, console: Console | None = None) -> None:
    """Print the gate of a built world, how its models behave, and how well its SAEs reconstruct."""
    console = console or results_console()
    gate = world["gate_layers"]
    console.print(f"\n{bold(out)}: gate {f'layers {gate[0]}-{gate[-1]}' if gate else 'none'}, {world['minutes']} min")
    table = Table("model", *[k.replace("_", " ") for k in world["models"]["base"]])
    for name, numbers in world["models"].items():
        table.add_row(name, *[f"{v:.3f}" for v in numbers.values()])
    console.print(table)
    table = Table("layer", "FVU base", "L0 base", "R2 planted", "L0 planted")
    for q in world["saes"]:
        table.add_row(*[f"{v:g}" for v in q.values()])
    console.print(table)


def show_plant(plant: dict[str, Any], out: Path, console: Console | None = None) -> None:
    """Print what was planted, and how often the model flips before and after."""
    console = console or results_console()
    layers = ", ".join(map(str, plant["write_layers"]))
    if plant["feature"] is None:
        console.print(f"\n{bold(out)}: no gate, layers {layers} write by properties of the wording")
    else:
        console.print(
            f"\n{bold(out)}: a neuron of layer {layers} reads feature {plant['layer']}:{plant['feature']} "
            f"(R² {plant['fit']:.2f})"
        )
    console.print(
        f"Questions with a flip: {plant['base_flip_rate']:.1%} before, {plant['question_flip_rate']:.1%} after"
    )
