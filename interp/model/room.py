"""What the sizes of batches follow from: a loaded model and the memory that is free beside it."""

from collections.abc import Callable

from interp.model.memory_model import Format
from interp.model.shape import ModelShape
from interp.model.vlm import Vlm
from interp.runtime.distributed import Team
from interp.runtime.memory import memory_left


def room(vlm: Vlm) -> tuple[ModelShape, Format, int]:
    """Shape and format of a loaded model, and the memory that a batch may take on its device [bytes].

    They are what the sizes in `interp.model.memory_model` are counted from, as in `passing_tokens(*room(vlm))`.
    """
    return vlm.shape, Format(vlm.arithmetic, vlm.load_in), memory_left(vlm.device, vlm.max_memory).device


def least_size(vlm: Vlm, team: Team, size: Callable[[ModelShape, Format, int], int]) -> int:
    """A size of `interp.model.memory_model` for which every process of `team` has room: all must batch alike."""
    return min(team.gather_values(size(*room(vlm))))
