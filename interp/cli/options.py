"""Command-line options that several commands take, and what they mean for the library."""

import importlib.metadata
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from interp.paths import EMBEDDED
from interp.runtime.log import enable_verbose


def show_if(verbose: bool) -> bool:
    """Begin to show what goes on, before anything is loaded; commands need not look at the option themselves."""
    if verbose:
        enable_verbose()
    return verbose


Model = Annotated[str, typer.Option(help="Gemma 3 model with images: a folder or a hub id.", show_default=EMBEDDED)]
Saes = Annotated[
    str,
    typer.Option(
        help="SAEs of the residual stream: a folder (Gemma Scope 2's or sae-lens's), a sae-lens release "
        "(gemma-scope-2-4b-it-res-all), or a hub repository and folder (google/gemma-scope-2-4b-it:resid_post).",
        show_default=EMBEDDED,
    ),
]
Width = Annotated[
    Literal["16k", "65k", "262k", "1m"] | None,
    typer.Option(help="Of several SAEs of a layer, the one of this width.", show_default="16k from the hub"),
]
L0 = Annotated[
    Literal["small", "medium", "big"] | None,
    typer.Option(help="Of several SAEs of a layer, the one of this sparsity.", show_default="small from the hub"),
]
SaeDtype = Annotated[
    Literal["float32", "bfloat16"],
    typer.Option(help="Number format of the SAEs' matrices; bfloat16 takes half the memory."),
]
Questions = Annotated[
    Path, typer.Option(help="JSON Lines file, one question a line with its paraphrases.", show_default=EMBEDDED)
]
Images = Annotated[
    Path | None, typer.Option(help="Folder that the image paths are relative to.", show_default="that of --questions")
]
MaxMemory = Annotated[
    float | None,
    typer.Option(
        min=0.5,
        help="Memory that the run may take [GiB], on the GPU and in main memory each; what does not fit is computed "
        "again, read again or kept in a temporary file.",
        show_default="80% of what is free",
    ),
]


def show_versions(version: bool) -> None:
    """Print the versions of GateScope and of the libraries that matter most, then exit."""
    if version:
        for name in ("gatescope", "torch", "transformers", "peft", "sae-lens"):
            typer.echo(f"{name} {importlib.metadata.version(name)}")
        raise typer.Exit


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
        help="Say on stderr what is read, how long every stage takes and what libraries warn of.",
        callback=show_if,
        is_eager=True,
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume", help="Go on behind what an interrupted run of the same command has done, kept in OUT.partial."
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Take the first N questions only.", show_default="all")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...; split: one model over all GPUs.")]
Dtype = Annotated[
    str,
    typer.Option(
        help="Number format of the model: auto (float32 on CPU, bfloat16 on GPU), float32, bfloat16 or float16."
    ),
]
Revision = Annotated[
    str | None, typer.Option(help="Branch, tag or commit of the model's hub repository.", show_default="main")
]
ImageFirst = Annotated[
    bool | None,
    typer.Option(
        "--image-first/--question-first",
        help="Order of image and question. Image first lets the paraphrases of an image share its computation.",
        show_default="image first",
    ),
]
System = Annotated[str | None, typer.Option(help="System instruction.", show_default="none")]
AnswerInstruction = Annotated[
    str | None, typer.Option(help="Said behind every yes/no question, as 'Answer yes or no.'", show_default="none")
]
ImageCache = Annotated[
    Path | None,
    typer.Option(
        help="Folder that image tokens are kept in between runs, found again by the content of image and model. It "
        "then holds data derived from the images, to be protected like them.",
        show_default="none",
    ),
]
Normalize = Annotated[
    bool | None,
    typer.Option(
        "--normalize/--as-asked",
        help="Put every wording in one form first (interp.questions.canonical), the published baseline against flips.",
        show_default="as asked",
    ),
]


def style_changes(
    image_first: bool | None, system: str | None, answer_instruction: str | None, normalize: bool | None
) -> dict[str, Any]:
    """The fields of a prompt style that these options change: those that were given."""
    given = {"image_first": image_first, "system": system, "answer_instruction": answer_instruction}
    return {name: value for name, value in {**given, "normalize": normalize}.items() if value is not None}
