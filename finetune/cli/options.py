"""Command-line options that several commands of `finetune` take."""

from dataclasses import fields

from interp.model.spec import ModelSpec
from interp.paths import EMBEDDED
from interp.runtime.options import option, option_of

BASE_MODEL = option(
    None,
    "The base model: a folder or a hub id.",
    shown=f"the one that the adapter names; without an adapter {EMBEDDED}",
)
RECORDED_STYLE = {
    field.name: option(
        None, said.help, shown=f"{said.shown} unless the adapter's record says otherwise", flags=said.flags
    )
    for field in fields(ModelSpec)
    if field.name in ("image_first", "system", "answer_instruction", "normalize", "normal_form")
    and (said := option_of(field))
}
"""The prompt style, for commands that read it from the record of an adapter."""
TRAINING_DEVICE = option("auto", "auto (a GPU if there is one), cpu or cuda.")
BASE_DTYPE = option(
    "auto",
    "Number format of the frozen base; auto is bfloat16 on a GPU that has it, and else float32. The adapter is always "
    "float32.",
)
