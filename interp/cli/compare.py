"""The `interp compare` command."""

from pathlib import Path
from typing import Annotated

import typer

from interp.cli.options import Json, Verbose, seed_option


def compare_command(
    a: Annotated[
        Path, typer.Argument(help="Folder of a search, or file of an evaluation (--out).", show_default=False)
    ],
    b: Annotated[Path, typer.Argument(help="The one that it is compared with.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(help="New folder for comparison.json and comparison.html.", show_default="none"),
    ] = None,
    seed: Annotated[int, seed_option("Seed of the intervals and the permutations.")] = 0,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Say what changed between two searches or two evaluations: verdicts, layers, features, flips, accuracy.

    \b
        interp compare run-a/ run-b/
        interp compare before.json after.json --out comparison/

    Differences are paired, with intervals over patients, if both were measured on the same questions with --keep-items.
    """
    from interp.comparison.compare import compare
    from interp.storage.atomic import atomic_folder, refuse_used, write_text
    from interp.views.report.comparison import render_comparison
    from interp.views.tables.comparison import comparison_overview
    from interp.views.terminal.show import show_overview

    if out is not None:
        refuse_used(out)
    found = compare(a, b, seed)
    if out is not None:
        with atomic_folder(out) as folder:
            write_text(folder / "comparison.json", found.to_json())
            write_text(folder / "comparison.html", render_comparison(found))
    if json:
        typer.echo(found.to_json(), nl=False)
    else:
        show_overview(comparison_overview(found))
        if out is not None:
            typer.echo(f"Wrote {out}")
