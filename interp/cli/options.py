"""Command-line options that several commands take and that belong to no dataclass (see `dataclass_options`)."""

import importlib.metadata
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from interp.cli.grouped_help import ADVANCED, OUTPUT
from interp.runtime.log import enable_verbose
from interp.runtime.options import LARGEST_SEED, help_of
from interp.search.settings import FindSettings


def show_if(verbose: bool) -> bool:
    """Start verbose logging before anything is loaded, so that no command needs to look at the option itself."""
    if verbose:
        enable_verbose()
    return verbose


def show_versions(version: bool) -> None:
    """Print the versions of GateScope and of the libraries that matter most, then exit."""
    if version:
        for name in ("gatescope", "torch", "transformers", "peft", "sae-lens"):
            typer.echo(f"{name} {importlib.metadata.version(name)}")
        raise typer.Exit


def seed_option(help: str) -> Any:
    """The `--seed` of a command; `help` says what it is the seed of."""
    return typer.Option(min=0, max=LARGEST_SEED, help=help)


Version = Annotated[
    bool,
    typer.Option("--version", help="Print the versions and exit.", callback=show_versions, is_eager=True),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout, and nothing else there.")]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        help="Print to stderr what is read, how long each stage takes, and the warnings of libraries.",
        callback=show_if,
        is_eager=True,
    ),
]
Full = Annotated[bool, typer.Option("--full", help="Print every table, not only what decides.", rich_help_panel=OUTPUT)]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Continue an interrupted run of the same command from what it kept in OUT.partial."),
]
SaeDtype = Annotated[
    Literal["float32", "bfloat16"],
    typer.Option(help=help_of(FindSettings, "sae_dtype"), rich_help_panel=ADVANCED),
]
Images = Annotated[
    Path | None,
    typer.Option(help="Folder that the image paths are relative to.", show_default="the folder of --questions"),
]
Device = Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu or cuda.")]
