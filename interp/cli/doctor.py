"""The `interp doctor` command."""

from typing import Annotated

import typer

from interp.cli.options import Json, Verbose
from interp.model.spec import Dtype, ModelSpec
from interp.runtime.options import help_of


def doctor_command(
    model: Annotated[
        str | None,
        typer.Option(help="Model whose commands shall fit: a folder or a hub id.", show_default="MedGemma 4B's shape"),
    ] = None,
    gpu_memory: Annotated[
        float | None,
        typer.Option(
            min=0.5,
            help="Say what would fit on a GPU with this much free memory [GiB], not on this machine.",
            show_default="this machine's",
        ),
    ] = None,
    dtype: Annotated[
        Dtype,
        typer.Option(
            help=f"{help_of(ModelSpec, 'dtype')} With --gpu-memory, auto is bfloat16: a T4, V100 or RTX 20 has none, "
            "so ask for float32."
        ),
    ] = "auto",
    online: Annotated[
        bool,
        typer.Option(
            "--online",
            help="Also ask the hub which repositories this login may download, and for a --model's config.json.",
        ),
    ] = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Look at this machine: driver, GPU, memory, disk, hub, extras, and which commands will fit.

        interp doctor

    No model is loaded or downloaded, and without --online no network is used. Before you rent a card, ask what would
    fit on it:

        interp doctor --gpu-memory 22

    On a T4, which has no bfloat16:

        interp doctor --gpu-memory 14.5 --dtype float32
    """
    from interp.model.doctor import examine
    from interp.views.terminal.doctor import show_machine

    found = examine(model, online, gpu_memory, dtype)
    if json:
        typer.echo(found.to_json(), nl=False)
    else:
        show_machine(found)
