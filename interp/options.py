"""Command-line options that both commands take, and what they mean for the library."""

from pathlib import Path
from typing import Annotated, Any

import typer

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
        help="Put every wording in one form first (interp.normalize), the published baseline against flips.",
        show_default="as asked",
    ),
]


def style_changes(
    image_first: bool | None, system: str | None, answer_instruction: str | None, normalize: bool | None
) -> dict[str, Any]:
    """The fields of a prompt style that these options change: those that were given."""
    given = {"image_first": image_first, "system": system, "answer_instruction": answer_instruction}
    return {name: value for name, value in {**given, "normalize": normalize}.items() if value is not None}
