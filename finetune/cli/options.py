"""Command-line options that several commands of `finetune` take."""

from interp.paths import EMBEDDED
from interp.runtime.options import option

BASE_MODEL = option(
    None,
    "The base model: a folder or a hub id.",
    shown=f"the one that the adapter names; without an adapter {EMBEDDED}",
)
TRAINING_DEVICE = option("auto", "auto (a GPU if there is one), cpu or cuda.")
BASE_DTYPE = option(
    "auto",
    "Number format of the frozen base; auto is bfloat16 on a GPU and float32 on a CPU. The adapter is always float32.",
)
