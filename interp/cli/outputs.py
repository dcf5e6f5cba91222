"""The commands that read the folder of a run: `interp figures`, `report` and `scrub`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from interp.cli.options import Json, Verbose
from interp.runtime.errors import EXIT_FOUND


def figures_command(
    run: Annotated[
        Path,
        typer.Argument(
            help="Folder that find-features, test-feature, finetune, finetune ablate or finetune grounding wrote.",
            show_default=False,
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="New folder for the figures.", show_default="RUN/figures")] = None,
    size: Annotated[
        Literal["screen", "column", "page"],
        typer.Option(help="Size for a screen, or for print: 3.3 inches wide (column) or 6.9 inches (page)."),
    ] = "screen",
    verbose: Verbose = False,
) -> None:
    """Draw the figures of a run again from the files in its folder, each as PNG and SVG with its numbers as CSV.

        interp figures artifacts/ --size column --out paper/

    Nothing is computed, and nothing is overwritten: --out must not exist or must be empty.
    """
    from interp.views.figures.redraw import redraw
    from interp.views.figures.style import SIZES

    for path in redraw(run, out or run / "figures", SIZES[size]):
        typer.echo(path)


def report_command(
    run: Annotated[
        Path, typer.Argument(help="Folder that find-features wrote; folders inside it are included.")
    ] = Path("artifacts"),
    out: Annotated[Path, typer.Option(help="New HTML file.")] = Path("report.html"),
    include_examples: Annotated[
        bool,
        typer.Option(
            "--include-examples",
            help="Include the maps of a grounding study, drawn over their images. The report then shows images.",
        ),
    ] = False,
    include_text: Annotated[
        bool,
        typer.Option(
            "--include-text",
            help="Include the wordings that --include-text kept with `interp find-features`, `finetune evaluate` "
            "(--keep-items) or `interp test-feature`. The report then shows text of the questions; studies of features "
            "of the embedded world always do.",
        ),
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Write all results of a run into one HTML file, which opens offline and can be sent to others.

        interp report artifacts/ --out report.html

    The verdict comes first, then whatever the folder holds, in sections that open: layer profile, features, every
    wording (with --keep-items), training, before and after, quadrants, grounding, ablation, settings, limits. The file
    contains no question, image, path or patient.
    """
    from interp.views.report.render import write_report

    write_report(run, out, include_examples, include_text)
    typer.echo(out)


def scrub_command(
    folder: Annotated[Path, typer.Argument(help="Folder to be shared.", show_default=False)],
    questions: Annotated[
        list[Path] | None,
        typer.Option(
            help="Questions whose texts, ids and paths no file may contain. May be given several times.",
            show_default="none",
        ),
    ] = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Check a folder before you share it: which files may contain question text, paths, patients or images?

        interp scrub artifacts/adapter --questions questions.jsonl

    JSON, notebooks, CSV, parquet, safetensors, PNG, HTML and SVG are parsed; files of other kinds are listed, because
    they were not checked. Nothing is changed, and what was found is not quoted.

    Exits with 0 if nothing was found, 4 if something was, 2 on bad input.
    """
    from interp.sharing.scrub import scrub
    from interp.storage.json_files import json_ready, json_text
    from interp.views.terminal.scrub import show_scrub

    report = scrub(folder, questions or [])
    if json:
        content = {
            "files": report.files,
            "ids_too_short": report.too_short,
            "found": json_ready(report.findings),
        }
        typer.echo(json_text(content), nl=False)
    else:
        show_scrub(report, folder, bool(questions))
    if report.findings:
        raise typer.Exit(EXIT_FOUND)
