"""The `finetune push` command."""

from pathlib import Path
from typing import Annotated

import typer

from interp.cli.options import Json, Verbose


def push_command(
    adapter: Annotated[Path, typer.Argument(help="Folder that `finetune --out` wrote.", show_default=False)],
    repo: Annotated[str, typer.Argument(help="Model repository on the hub: owner/name.", show_default=False)],
    upload: Annotated[bool, typer.Option("--upload", help="Send it; without this it is only shown.")] = False,
    public: Annotated[bool, typer.Option("--public", help="Let everybody see it; without this it is private.")] = False,
    base_model: Annotated[
        str | None,
        typer.Option(
            help="Hub id of the base, for an adapter of a local folder. Written into what is sent only.",
            show_default="the one the adapter names",
        ),
    ] = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Show what would be published of an adapter on the Hugging Face hub, and with --upload publish it.

    Weights, configuration, card, evaluation and record are sent, nothing else. The hashes of the training texts stay
    here. The adapter's folder is not changed.

    Look first, then send:

    \b
        finetune push artifacts/adapter me/medgemma-4b-consistent
        finetune push artifacts/adapter me/medgemma-4b-consistent --upload
    """
    from finetune.publishing.push import content_of, description, send, staged
    from interp.storage.json_files import json_text

    with staged(adapter, repo, public, base_model) as package:
        if not json:
            typer.echo(description(package))
        sent = send(package) if upload else None
        if json:
            typer.echo(json_text(content_of(package) | {"sent": sent}), nl=False)
        else:
            typer.echo(f"Sent: {sent}" if sent else "Nothing was sent. Add --upload to send exactly this.")
