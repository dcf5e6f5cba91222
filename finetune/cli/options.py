"""Command-line options that several commands of `finetune` take."""

from typing import Annotated, Literal

import typer

from interp.paths import EMBEDDED

BaseModel = Annotated[
    str | None,
    typer.Option(
        help="The base model: a folder or a hub id.",
        show_default=f"the one the adapter names; without an adapter {EMBEDDED}",
    ),
]
SplitName = Literal["train", "test", "all"]
TrainSplit = Annotated[SplitName, typer.Option(help="Questions to train on.")]
TestSplit = Annotated[SplitName, typer.Option(help="Questions to evaluate on; no patient may be in both.")]
Alpha = Annotated[int, typer.Option(min=1, help="The update is scaled by alpha / rank.")]
LearningRate = Annotated[float, typer.Option(help="Peak learning rate.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Questions an optimizer step.")]
Epochs = Annotated[int, typer.Option(min=1, help="Passes over the questions.")]
Device = Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu or cuda.")]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    typer.Option(
        help="Number format of the frozen base; auto is bfloat16 on a GPU, float32 on a CPU. The adapter is float32."
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(min=1, help="Take the first N questions of each split, to try things out.", show_default="all"),
]
