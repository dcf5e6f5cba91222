"""The `finetune push` command."""

from pathlib import Path
from typing import Annotated

import typer

from interp.cli.options import Json, Verbose


def push_command(
    adapter: Annotated[Path, typer.Argument(help="Folder that `finetune --out` wrote.", show_default=False)],
    repo: Annotated[str, typer.Argument(help="Model repository on the hub: owner/name.", show_default=False)],
    upload: Annotated[
        bool, typer.Option("--upload", help="Upload; without this option, only show what would be sent.")
    ] = False,
    public: Annotated[
        bool, typer.Option("--public", help="Make the repository public; without this option it is private.")
    ] = False,
    base_model: Annotated[
        str | None,
        typer.Option(
            help="Hub id of the base, if the adapter was trained on a local folder. Written only into what is sent.",
            show_default="the one that the adapter names",
        ),
    ] = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Show what would be published of an adapter on the Hugging Face hub; publish it with --upload.

    Only weights, configuration, card, evaluation and record are sent. The record is sent without the hashes of the
    training texts. The adapter's folder does not change.

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
