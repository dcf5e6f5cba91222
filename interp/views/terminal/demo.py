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
    table = Table(*[k.replace("_", " ") for k in world["saes"][0]])
    for q in world["saes"]:
        table.add_row(*[f"{v:g}" for v in q.values()])
    console.print(table)


def show_plant(plant: dict[str, Any], out: Path, console: Console | None = None) -> None:
    """Print what was planted, and how often the model flips before and after."""
    console = console or results_console()
    if not plant["gates"]:
        layers = ", ".join(map(str, plant["write_layers"]))
        console.print(f"\n{bold(out)}: no gate, layers {layers} write by properties of the wording")
    for gate in plant["gates"]:
        name, relay = f"{gate['layer']}:{gate['feature']}", gate["relay_layer"]
        through = "" if relay is None else f" through a relay in layer {relay}"
        console.print(
            f"\n{bold(out)}: a neuron of layer {gate['write_layer']} reads feature {name}{through} "
            f"(R² {gate['fit']:.2f}); margin {gate['shift_on']:+.2f} logits where it is active, "
            f"{gate['shift_off']:+.2f} elsewhere"
        )
    console.print(
        f"Questions with a flip: {plant['base_flip_rate']:.1%} before, {plant['question_flip_rate']:.1%} after"
    )
