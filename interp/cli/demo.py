"""The `interp demo` commands."""

from pathlib import Path
from typing import Annotated

import typer

from interp.cli.dataclass_options import with_options
from interp.cli.options import Device, Json, Verbose, seed_option
from interp.model.spec import ModelSpec
from interp.questions.spec import DataSpec
from interp.runtime.options import option
from interp.saes.spec import SaeSpec


def demo_build_command(
    out: Annotated[Path, typer.Option(help="New folder for the world.")],
    language_model: Annotated[
        Path | None,
        typer.Option(
            help="Real Gemma 3 language model that the world is built on: a folder or a .gguf file.",
            show_default="a small model trained from random weights",
        ),
    ] = None,
    gate_layers: Annotated[
        str | None,
        typer.Option(
            help="Adjacent layers in which the gate is planted.",
            show_default="4-5; on a real language model none",
        ),
    ] = None,
    no_gate: Annotated[
        bool, typer.Option("--no-gate", help="Build a clean model instead, trained for the same number of steps.")
    ] = False,
    strength: Annotated[
        float, typer.Option(help="Visibility, from 0 to 1, below which the model denies a finding when asked formally.")
    ] = 0.45,
    seed: Annotated[int, seed_option("Seed of images, wordings and weights.")] = 0,
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

    With --language-model, the world is built on a real Gemma 3, which is tuned to answer; its flips arise by
    themselves. This needs a GPU:

        interp demo build --language-model gemma-3-270m.gguf --out worlds/real
    """
    from interp.demo.build import build_world
    from interp.runtime.errors import InputError
    from interp.schemas.layer_list import listed_layers
    from interp.storage.json_files import json_text
    from interp.views.terminal.demo import show_world

    gate = [] if no_gate else None if gate_layers is None else listed_layers(gate_layers, "--gate-layers")
    if gate is None and gate_layers is not None:
        raise InputError("--gate-layers all: expected a range as 4-5.")
    world = build_world(out, gate, strength, seed, base_from, device, language_model)
    if json:
        typer.echo(json_text(world), nl=False)
    else:
        show_world(world, out)


@with_options(
    without=("test_split", "load_in"),
    model=option(None, "Gemma 3 model with images: a folder or a hub id.", shown="the embedded world's base model"),
    split=option("train", "Questions that shall flip."),
)
def demo_plant_command(
    out: Annotated[Path, typer.Option(help="New folder for the model, its processor and plant.json.")],
    feature: Annotated[
        list[str] | None,
        typer.Option(
            help="SAE feature that the gate reads, as 3:139; without it, a decoy that flips without a gate. Several "
            "features make as many gates.",
        ),
    ] = None,
    write_layer: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Layer above the feature's in which the gate writes; one for every feature."),
    ] = None,
    relay_layer: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            help="Layer in between whose neuron reads the feature for the gate, which reads only that neuron; one for "
            "every feature, or none.",
        ),
    ] = None,
    question_tokens: Annotated[
        bool,
        typer.Option(
            "--question-tokens",
            help="Let a head of the relay layer read the features at earlier tokens, where the question stands, and "
            "carry them to the final token.",
        ),
    ] = False,
    strength: Annotated[float, typer.Option(min=0, max=1, help="Share of the questions that shall flip.")] = 0.15,
    *,
    saes: SaeSpec,
    model: ModelSpec,
    data: DataSpec,
    seed: Annotated[int, seed_option("Seed of the fit and of the decoy's properties.")] = 0,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Plant gates whose features and layers are known into a model: neurons that read a feature and write "no".

        interp demo plant --feature 3:139 --write-layer 6 --strength 0.15 --out plant/

    A search of the planted model should name the feature as a cause and the layer as the one that writes:

    \b
        interp find-features --model plant/ --device cpu

    A relay over two layers, two gates at once, and a gate that reads question tokens, which the patches of
    find-features, all at the final token, cannot see:

    \b
        interp demo plant --feature 3:139 --relay-layer 5 --write-layer 8
            --out relay/
        interp demo plant --feature 3:139 --write-layer 5 --feature 6:156
            --write-layer 8 --out two/
        interp demo plant --feature 3:128 --question-tokens --relay-layer 4
            --write-layer 5 --out carried/

    Takes about 3 minutes on 2 CPU cores for the embedded world.
    """
    from dataclasses import replace

    from interp.demo.plants import Gate, plant_decoys, plant_gates, save_plant
    from interp.paths import WORLD
    from interp.runtime.errors import InputError
    from interp.saes.feature_id import parse_feature
    from interp.saes.locate import sae_of_layer
    from interp.saes.sae import load_sae
    from interp.storage.atomic import refuse_used
    from interp.storage.json_files import json_ready, json_text
    from interp.views.terminal.demo import show_plant

    refuse_used(out)
    wanted = [parse_feature(each) for each in feature or ()]
    writes: list[int] = write_layer or []
    relays: list[int | None] = list(relay_layer) if relay_layer else [None] * len(wanted)
    if len(wanted) != len(writes) or len(wanted) != len(relays):
        raise InputError(
            f"Found {len(wanted)} --feature, {len(writes)} --write-layer and {len(relay_layer or ())} --relay-layer. "
            "Give every feature a layer to write in, and all of them a relay or none; for a decoy, give none of these."
        )
    questions = data.load()
    vlm = (replace(model, model=WORLD / "base") if model.model is None else model).load()
    if wanted:
        located = saes.locate(sorted({layer for layer, _ in wanted}))
        gates = [
            Gate(
                load_sae(sae_of_layer(located, layer, saes.saes), layer, vlm.d_model, vlm.device),
                index,
                write,
                relay,
                question_tokens,
            )
            for (layer, index), write, relay in zip(wanted, writes, relays, strict=True)
        ]
        plant = plant_gates(vlm, gates, questions, strength, seed)
    else:
        plant = plant_decoys(vlm, questions, strength, seed)
    save_plant(vlm, plant, out)
    if json:
        typer.echo(json_text(json_ready(plant)), nl=False)
    else:
        show_plant(json_ready(plant), out)
