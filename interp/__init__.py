"""interp: find the features and layers that make a vision-language model change its answer to a reworded question."""

from interp.errors import InputError

__all__ = ["InputError"]
