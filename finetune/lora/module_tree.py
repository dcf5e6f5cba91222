"""Taking an adapter out of a model exactly.

peft's own `unload` and `disable_adapter` leave in the base what an adapter wrote into its tensors (embeddings, biases)
and its trained copies of whole modules (`modules_to_save`). Here such tensors are written into copies, and the modules
and tensors of the base are put back as they were.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor

HELD = ("_modules", "_parameters", "_buffers")
"""Where a module of torch holds its parts."""


class ModuleTree:
    """The modules and tensors that a model consists of at one moment; nothing is copied."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._parts = [(part, *(dict(getattr(part, held)) for held in HELD)) for part in model.modules()]
        # peft leaves its configuration as attributes of the whole model.
        self._attributes = dict(vars(model))

    def restore(self) -> Any:
        """Make the model consist of these modules and tensors again, and return it."""
        vars(self.model).clear()
        vars(self.model).update(self._attributes)
        for part, *contents in self._parts:
            for held, content in zip(HELD, contents, strict=True):
                getattr(part, held).clear()
                getattr(part, held).update(content)
        return self.model

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Restore the model while open; afterwards it consists of what it does now."""
        now = ModuleTree(self.model)
        self.restore()
        try:
            yield
        finally:
            now.restore()

    def tensors(self) -> dict[int, Tensor]:
        """The parameters and buffers by their `id`."""
        held = (tensor for _, _, *kinds in self._parts for kind in kinds for tensor in kind.values())
        return {id(tensor): tensor for tensor in held if tensor is not None}


class LoadReport:
    """What became of the weights of an adapter file."""

    def __init__(self) -> None:
        self.placed = 0
        """Number of weights that were offered to the model; two saved weights of one name count once."""
        self.unplaced: list[str] = []
        """Names of weights that have no place in the model."""
        self.unfilled: list[str] = []
        """Names of the adapter's parameters that no saved weight filled."""


@contextmanager
def base_kept(tree: ModuleTree) -> Iterator[LoadReport]:
    """While open, weights loaded into the model of `tree` go into copies of the tensors that `tree` holds.

    Tied tensors stay tied: all of their places get the same copy. The report is filled when weights are loaded.
    """
    report, originals = LoadReport(), tree.tensors()
    base = set(originals)
    filled: set[int] = set()

    def before(module: Any, weights: dict[str, Tensor], prefix: str, *_: Any) -> None:
        named = {prefix + name: tensor for name, tensor in _named_tensors(module)}
        report.placed = len(weights)
        copies = {id(named[name]): _copy(named[name]) for name in weights if id(named.get(name)) in originals}
        for part in module.modules():
            for held in (part._parameters, part._buffers):
                held.update({name: copies[id(tensor)] for name, tensor in held.items() if id(tensor) in copies})
        base.update(map(id, copies.values()))
        # Kept alive until the report is made, so that no other tensor gets their ids.
        originals.update({id(copy): copy for copy in copies.values()})
        filled.update(id(named[name]) for name in weights if name in named)

    def after(module: Any, keys: Any) -> None:
        named = {f"base_model.model.{name}": tensor for name, tensor in _named_tensors(module)}
        report.unplaced = sorted(keys.unexpected_keys)
        report.unfilled = sorted(
            name for name in keys.missing_keys if name in named and id(named[name]) not in base | filled
        )

    hooks = [
        tree.model.register_load_state_dict_pre_hook(before),
        tree.model.register_load_state_dict_post_hook(after),
    ]
    try:
        yield report
    finally:
        for hook in hooks:
            hook.remove()


def _named_tensors(module: Any) -> Iterator[tuple[str, Tensor]]:
    return chain(module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False))


def _copy(tensor: Tensor) -> Tensor:
    copy = tensor.detach().clone()
    return torch.nn.Parameter(copy, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else copy
