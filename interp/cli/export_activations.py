"""The `interp export-activations` command."""

from pathlib import Path
from typing import Annotated

import typer

from interp.cli.dataclass_options import with_options
from interp.cli.options import Verbose
from interp.feature.readers import Reader
from interp.model.spec import ModelSpec
from interp.questions.spec import DataSpec
from interp.runtime.options import option
from interp.saes.spec import SaeSpec


@with_options(without=("test_split",), split=option("train", "Questions to use."))
def export_activations_command(
    features: Annotated[
        list[str],
        typer.Argument(metavar="LAYER:FEATURE...", help="The features, as 17:3818 17:250.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="New folder for the files.")],
    *,
    reader: Annotated[Reader, typer.Option("--for", help="The tool that is to read them.")] = "sae-dashboard",
    saes: SaeSpec,
    model: ModelSpec,
    data: DataSpec,
    include_text: Annotated[
        bool,
        typer.Option(
            "--include-text",
            help="Write the wordings too, as token ids: the files then hold the text of your questions. delphi reads "
            "nothing without them.",
        ),
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Write the activations of features at the tokens of every wording, as sae-dashboard or delphi reads them.

    Image tokens are left out, and so are the tokens with which all prompts begin: the
    template's, and first words that all wordings share.

    A page of sae-dashboard for two features of the embedded world:

        interp export-activations 5:466 6:156 --include-text --out dashboard/

    A cache of delphi, which explains and scores features with a language model:

        interp export-activations 6:156 --for delphi --include-text --out delphi/

    interp/saes/README.md has the lines that read them.
    """
    from interp.feature.export import check_reader, export_activations
    from interp.model.memory_jobs import measuring
    from interp.saes.feature_id import parse_feature
    from interp.storage.atomic import refuse_used

    check_reader(reader, include_text)
    refuse_used(out)
    layers = {parse_feature(text)[0] for text in features}
    questions, located = data.load(), saes.locate(layers)
    vlm = model.load(job=measuring(answers=False, captured=1, sae=True))
    for path in export_activations(vlm, located, questions, features, out, reader, include_text):
        typer.echo(path)
