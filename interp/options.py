"""Command-line options that both commands take, and what they mean for the library."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from interp.prompts import PromptStyle

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


def style_of(image_first: bool | None, system: str | None, answer_instruction: str | None) -> "PromptStyle | None":
    """The prompt style of these options; None if none of them was given."""
    from interp.prompts import PromptStyle

    if image_first is None and system is None and answer_instruction is None:
        return None
    return PromptStyle(image_first is not False, system, answer_instruction)
