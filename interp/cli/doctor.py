"""The `interp doctor` command."""

from typing import Annotated

import typer

from interp.cli.options import Json, Verbose


def doctor_command(
    model: Annotated[
        str | None,
        typer.Option(help="Model whose commands shall fit: a folder or a hub id.", show_default="MedGemma 4B's shape"),
    ] = None,
    gpu_memory: Annotated[
        float | None,
        typer.Option(
            min=0.5,
            help="Say what would fit on a GPU with bfloat16 and this much free memory [GiB].",
            show_default="this machine's",
        ),
    ] = None,
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
    """
    from interp.model.doctor import examine
    from interp.views.terminal.doctor import show_machine

    found = examine(model, online, gpu_memory)
    if json:
        typer.echo(found.to_json(), nl=False)
    else:
        show_machine(found)
