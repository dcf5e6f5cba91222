"""The `interp demo` commands."""

from pathlib import Path
from typing import Annotated

import typer

from interp.cli.dataclass_options import with_options
from interp.cli.options import Device, Json, Verbose
from interp.model.spec import ModelSpec
from interp.questions.spec import DataSpec
from interp.runtime.options import option
from interp.saes.spec import SaeSpec


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


@with_options(
    without=("test_split",),
    model=option(None, "Gemma 3 model with images: a folder or a hub id.", shown="the embedded world's base model"),
    split=option("train", "Questions that shall flip."),
)
def demo_plant_command(
    out: Annotated[Path, typer.Option(help="New folder for the model, its processor and plant.json.")],
    feature: Annotated[
        str | None,
        typer.Option(help="SAE feature that the gate reads, as 3:139; without it, a decoy that flips without a gate."),
    ] = None,
    write_layer: Annotated[
        int | None, typer.Option(min=1, help="Layer above the feature's in which the gate writes.")
    ] = None,
    strength: Annotated[float, typer.Option(min=0, max=1, help="Share of the questions that shall flip.")] = 0.15,
    *,
    saes: SaeSpec,
    model: ModelSpec,
    data: DataSpec,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the fit and of the decoy's properties.")] = 0,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Plant a gate whose feature and layer are known into a model: one neuron that reads a feature and writes "no".

        interp demo plant --feature 3:139 --write-layer 6 --strength 0.15 --out plant/

    A search of the planted model should name the feature as a cause and the layer as the one that writes:

    \b
        interp find-features --model plant/ --device cpu

    Takes about 3 minutes on 2 CPU cores for the embedded world.
    """
    from dataclasses import replace

    from interp.demo.plant import plant_decoys, plant_feature, save_plant
    from interp.paths import WORLD
    from interp.runtime.errors import InputError
    from interp.saes.feature_id import parse_feature
    from interp.saes.locate import sae_of_layer
    from interp.saes.sae import load_sae
    from interp.storage.atomic import refuse_used
    from interp.storage.json_files import json_ready, json_text
    from interp.views.terminal.demo import show_plant

    refuse_used(out)
    if (feature is None) != (write_layer is None):
        raise InputError("--feature and --write-layer belong together. Give both, or neither for a decoy.")
    wanted = None if feature is None else parse_feature(feature)
    questions = data.load()
    vlm = (replace(model, model=WORLD / "base") if model.model is None else model).load()
    if wanted is None or write_layer is None:
        plant = plant_decoys(vlm, questions, strength, seed)
    else:
        layer, index = wanted
        sae = load_sae(sae_of_layer(saes.locate([layer]), layer, saes.saes), layer, vlm.d_model, vlm.device)
        plant = plant_feature(vlm, sae, index, write_layer, questions, strength, seed)
    save_plant(vlm, plant, out)
    if json:
        typer.echo(json_text(json_ready(plant._asdict())), nl=False)
    else:
        show_plant(plant._asdict(), out)
