"""The `interp export` command."""

from pathlib import Path
from typing import Annotated

import typer

from interp.cli.options import Json, Verbose


def export_command(
    run: Annotated[Path, typer.Argument(help="Folder that find-features wrote.")] = Path("artifacts"),
    saes: Annotated[
        str | None,
        typer.Option(
            help="sae-lens release that the search used; it and the names of the SAEs give Neuronpedia's names.",
            show_default="as recorded",
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, max=100, help="Number of features at most.")] = 20,
    out: Annotated[
        Path | None, typer.Option(help="Also write the list to this JSON file.", show_default="none")
    ] = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """List the features of a search under their names on Neuronpedia, with their pages. Nothing is sent.

        interp export artifacts/ --out features.json

    The file holds `featuresToAdd` in the form that Neuronpedia's interface expects (POST /api/list/add-features, with a
    list and a key of your own), the page of each feature, and a link that shows all of them. `left_out` names the
    features whose SAE has no page. The descriptions hold numbers of the search and the model's name.
    """
    from interp.saes.neuronpedia import feature_list
    from interp.schemas.layers import read_layers
    from interp.search.run_folder import LAYERS
    from interp.storage.atomic import refuse_used
    from interp.storage.json_files import json_text, write_json
    from interp.views.terminal.neuronpedia import show_list

    if out is not None:
        refuse_used(out)
    content = feature_list(read_layers(run / LAYERS), saes, top)
    if out is not None:
        write_json(out, content)
    if json:
        typer.echo(json_text(content), nl=False)
    else:
        show_list(content)
