"""The `interp demo` commands."""

from pathlib import Path
from typing import Annotated

import typer

from interp.cli.options import Device, Json, Verbose


def demo_build_command(
    out: Annotated[Path, typer.Option(help="New folder for the world.")],
    gate_layers: Annotated[str, typer.Option(help="Adjacent layers in which the gate is planted.")] = "4-5",
    no_gate: Annotated[
        bool, typer.Option("--no-gate", help="Build a clean model instead, trained for the same number of steps.")
    ] = False,
    strength: Annotated[
        float, typer.Option(help="Visibility, from 0 to 1, below which the model denies a finding when asked formally.")
    ] = 0.45,
    seed: Annotated[int, typer.Option(min=0, help="Seed of images, wordings and weights.")] = 0,
    base_from: Annotated[
        Path | None, typer.Option(help="World whose base model and SAEs are used again.", show_default="none")
    ] = None,
    device: Device = "auto",
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Build a world like the embedded one: radiographs, questions, a base model, SAEs, and a gate at chosen layers.

        interp demo build --gate-layers 7-8 --seed 3 --out worlds/late

    Takes about 6 minutes on a GPU and 50 on 4 CPU cores; with --base-from, 5 on the CPU.
    """
    from interp.demo.build import LAYERS, build_world
    from interp.schemas.layer_list import parse_layers
    from interp.storage.json_files import json_text
    from interp.views.terminal.demo import show_world

    gate = [] if no_gate else parse_layers(gate_layers, range(LAYERS), LAYERS)
    world = build_world(out, gate, strength, seed, base_from, device)
    if json:
        typer.echo(json_text(world), nl=False)
    else:
        show_world(world, out)
