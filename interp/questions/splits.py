"""The splits of a file of questions. Splits are by patient (`interp.questions.files.split_of`)."""

from typing import Literal

NamedSplit = Literal["train", "test"]
Split = Literal["train", "test", "all"]
