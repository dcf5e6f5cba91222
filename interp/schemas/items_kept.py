"""Whether a command keeps its items, as `--keep-items` says (`interp.schemas.items`)."""

from dataclasses import dataclass

from interp.runtime.errors import InputError
from interp.runtime.options import option


@dataclass(frozen=True)
class ItemsKept:
    """Whether what was measured on every single wording is written, too.

    >>> interp.ItemsKept(keep=True, include_text=False)
    ItemsKept(keep=True, include_text=False)
    """

    keep: bool = option(
        False,
        "Also write what was measured on every single wording (items.parquet), for tables of your own and `interp "
        "compare`. Questions and patients are named by salted hashes.",
        flags=("--keep-items",),
    )
    include_text: bool = option(
        False,
        "With --keep-items, also write ids and wordings: the file then holds your questions.",
        flags=("--include-text",),
    )

    def __post_init__(self) -> None:
        if self.include_text and not self.keep:
            raise InputError("--include-text says what --keep-items writes. Give both.")
