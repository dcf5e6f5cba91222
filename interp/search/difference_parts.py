"""The parts of the differences between wordings: what says another answer, and what is register."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from interp.causal.answer_patching import TURNS, AnswerDirections, answer_directions, with_controls
from interp.causal.register_patching import FEWEST_PAIRS, register_direction, register_signs
from interp.measurement.sharded import measure_together
from interp.model.first_use import load_linear_algebra
from interp.runtime.prefetch import host_threads, map_ahead
from interp.screening.flips import Flips, Halves, sample_pairs, sides
from interp.screening.image_swaps import swap_images
from interp.search.stages import Measured
from interp.search.task import Task
from interp.storage.checkpoint import stage_name

ENOUGH = 60
"""Flips of the selection half from which a range is taken without other pairs."""
SWAPPED = 1000
"""Prompts that are also run under another image."""


class DifferenceParts(NamedTuple):
    """Parts of residual differences at every profiled layer, original minus paraphrase, and their controls."""

    directions: list[list[AnswerDirections]]
    """[layers, 1 + TURNS]: the answer directions of every layer and their controls."""
    selected: Flips
    """s pairs of the selection half: its flip bank; if of fewer than ENOUGH, with the pairs of largest margin shift."""
    residual: Tensor
    """float32 [held-out bank, layers, d_model]: the original's residual after the layer minus the paraphrase's."""
    below: Tensor
    """float32 [held-out bank, layers, d_model]: the same before the layer."""
    residual_selected: Tensor
    """float32 [s, layers, d_model]: `residual` of `selected`."""
    below_selected: Tensor
    """float32 [s, layers, d_model]: `below` of `selected`."""
    register: Tensor | None
    """float32 [held-out bank, layers, d_model]: part along the register direction; None without registers."""
    register_selected: Tensor | None
    """float32 [s, layers, d_model]: the same for `selected`."""
    by_image: Flips
    """Pairs of k prompts of the held-out half with their own and another image, whose answers differ."""
    other_images: pd.DataFrame
    """Prompt table of these pairs with the other image: k rows."""
    image: Tensor
    """float32 [k, layers, d_model]: the differences of these pairs."""


def difference_parts(task: Task, halves: Halves, measured: Measured, selected: Flips) -> DifferenceParts:
    """Split the differences of the flip banks at every layer; the directions are those of the selection half.

    Its bank is `selected`, filled up to ENOUGH pairs (`interp.screening.flips.filled_bank`).
    """
    search, seed, margin = task.search, task.settings.seed, measured.margin
    groups = [set(half.pairs["patient"]) for half in halves]
    swaps = [swap_images(task.prompts, patients, SWAPPED // 2, seed) for patients in groups]
    rows = torch.from_numpy(np.concatenate([chosen for chosen, _ in swaps]))
    swapped = pd.concat([table for _, table in swaps], ignore_index=True)
    saved = task.checkpoint.within(stage_name("other-images", {"rows": rows}))
    moved_margin, moved = measure_together(
        search.vlm, swapped, task.layers, search.batch_tokens, search.max_memory, task.team, saved
    )
    of_selection = torch.arange(len(rows)) < len(swaps[0][0])
    by_image = _flips_by_image(task, rows, margin, moved_margin, ~of_selection.numpy())
    flipped = torch.from_numpy(by_image.pairs["row"].to_numpy(np.int64, copy=True))
    some = sample_pairs(halves.selection, SWAPPED, seed)
    tagged = sample_pairs(halves.selection.take(register_signs(halves.selection.pairs) != 0), SWAPPED, seed)
    signs = register_signs(tagged.pairs)
    banks = {"": halves.held_out_bank, "_selected": selected}

    def of_layer(layer: int) -> tuple[AnswerDirections, dict[str, Tensor]]:
        own = measured.residuals.after(layer)
        by_other_image = own.index_select(0, rows).float() - moved.after(layer)
        by_wording = measured.residuals.shift([layer], *sides(some.pairs))[:, 0]
        directions = answer_directions(by_other_image[of_selection], by_wording, search.vlm.device)
        made = {"image": by_other_image[flipped]}
        for bank, flips in banks.items():
            for name, place in (("residual", layer), ("below", layer - 1)):
                made[name + bank] = measured.residuals.shift([place], *sides(flips.pairs))[:, 0]
        if len(signs) >= FEWEST_PAIRS:
            along = register_direction(measured.residuals.shift([layer], *sides(tagged.pairs))[:, 0], signs)
            for bank in banks:
                made["register" + bank] = (made["residual" + bank] @ along)[:, None] * along
        return directions, made

    device = search.vlm.device
    load_linear_algebra(device)
    by_layer = list(map_ahead(of_layer, task.own_layers, host_threads(device)))
    whole = _gathered(task, [made for _, made in by_layer])
    own_directions = dict(zip(task.own_layers, (found for found, _ in by_layer), strict=True))
    return DifferenceParts(
        _controlled(task, own_directions, measured.device_bytes),
        selected,
        whole["residual"],
        whole["below"],
        whole["residual_selected"],
        whole["below_selected"],
        whole.get("register"),
        whole.get("register_selected"),
        by_image,
        swapped.iloc[by_image.pairs["row"].to_numpy(np.int64)].reset_index(drop=True),
        whole["image"],
    )


def _flips_by_image(task: Task, rows: Tensor, margin: Tensor, moved_margin: Tensor, wanted: np.ndarray) -> Flips:
    """Pairs of a prompt with its own and another image, of the `wanted` [n], with both margins beyond the threshold.

    Column `row` of their table is the place among `rows`; there are at most as many as patches of a flip bank need.
    """
    before, after = margin[rows].double().numpy(), moved_margin.double().numpy()
    table = pd.DataFrame({"row": np.arange(len(rows)), "patient": task.prompts["patient"].to_numpy()[rows.numpy()]})
    found = Flips.between(table, before, after, task.settings.bank_margin)
    return sample_pairs(found.take(found.banked & wanted), SWAPPED // 5, task.settings.seed)


def _controlled(task: Task, own: Mapping[int, AnswerDirections], device_bytes: int) -> list[list[AnswerDirections]]:
    """The directions of all processes and their controls, [layers, 1 + TURNS], on the device if they are small there.

    The controls of a layer are the same however the layers are divided among processes.
    """
    parts = task.team.gather_tensors(
        {f"{layer} {name}": t for layer, d in own.items() for name, t in d._asdict().items()}
    )
    tensors = {name: tensor for part in parts for name, tensor in part.items()}
    device, size = task.search.vlm.device, sum(tensor.nbytes for tensor in tensors.values())
    home = device if (1 + TURNS) * size <= device_bytes // 16 else "cpu"

    def controlled(layer: int) -> list[AnswerDirections]:
        found = AnswerDirections(tensors[f"{layer} basis"], tensors[f"{layer} gain"]).to(device)
        return [each.to(home) for each in with_controls(found, 1000 * task.settings.seed + layer)]

    return list(map_ahead(controlled, task.layers, host_threads(device)))


def _gathered(task: Task, own: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """What all processes made of their layers, stacked by layer; without what none of them made."""
    stacked = {name: torch.stack([made[name] for made in own], 1) for name in (own[0] if own else ())}
    if task.team.size == 1:
        return stacked
    gathered = task.team.gather_tensors(stacked)
    names = dict.fromkeys(name for part in gathered for name in part)
    return {name: torch.cat([part[name] for part in gathered if name in part], dim=1) for name in names}
