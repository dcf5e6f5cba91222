"""`interp schemas`."""

from pathlib import Path
from typing import Annotated

import typer

from interp.cli.options import Verbose


def schemas_command(
    out: Annotated[Path, typer.Option(help="New folder for the JSON Schemas.")] = Path("schemas"),
    verbose: Verbose = False,
) -> None:
    """Write the JSON Schema of every artifact, which says what its fields mean and lets others check such files.

        interp schemas --out schemas/

    Each is called NAME.schema.json, for example layers.schema.json for layers.json.
    """
    from interp.schemas.artifacts import write_json_schemas

    for path in write_json_schemas(out):
        typer.echo(path)
