"""The parts of the differences between wordings: what says another answer, and what is register."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from interp.causal.answer_patching import AnswerDirections, answer_directions, with_controls
from interp.causal.register_patching import FEWEST_PAIRS, register_direction, register_signs
from interp.measurement.sharded import measure_together
from interp.screening.flips import Flips, Halves, filled_bank, sample_pairs, sides
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
    residual_selected: Tensor
    """float32 [s, layers, d_model]: the whole difference after the layer."""
    below_selected: Tensor
    """float32 [s, layers, d_model]: the whole difference before the layer."""
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


def difference_parts(task: Task, halves: Halves, measured: Measured) -> DifferenceParts:
    """Split the differences of the flip banks at every layer; the directions are those of the selection half."""
    search, seed, margin = task.search, task.settings.seed, measured.margin
    groups = [set(half.pairs["patient"]) for half in halves]
    swaps = [swap_images(task.prompts, patients, SWAPPED // 2, seed) for patients in groups]
    rows = torch.from_numpy(np.concatenate([chosen for chosen, _ in swaps]))
    swapped = pd.concat([table for _, table in swaps], ignore_index=True)
    saved = task.checkpoint.within(stage_name("other-images", rows=rows))
    moved_margin, moved = measure_together(
        search.vlm, swapped, task.layers, search.batch_tokens, search.max_memory, task.team, saved
    )
    selected = torch.arange(len(rows)) < len(swaps[0][0])
    by_image = _flips_by_image(task, rows, margin, moved_margin, ~selected.numpy())
    flipped = torch.from_numpy(by_image.pairs["row"].to_numpy(np.int64, copy=True))
    some = sample_pairs(halves.selection, SWAPPED, seed)
    tagged = sample_pairs(halves.selection.take(register_signs(halves.selection.pairs) != 0), SWAPPED, seed)
    signs = register_signs(tagged.pairs)
    chosen = filled_bank(halves.selection, ENOUGH)
    names = ("register", "register_selected", "image", "residual", "below")
    made: dict[str, list[Tensor]] = {name: [] for name in names}
    banks = {"register": halves.held_out_bank, "register_selected": chosen}
    own_directions = dict[int, AnswerDirections]()
    for layer in task.own_layers:
        own = measured.residuals.after(layer)
        by_other_image = own[rows].float() - moved.after(layer)
        by_wording = measured.residuals.shift([layer], *sides(some.pairs))[:, 0]
        own_directions[layer] = answer_directions(by_other_image[selected], by_wording, search.vlm.device)
        if len(signs) >= FEWEST_PAIRS:
            along = register_direction(measured.residuals.shift([layer], *sides(tagged.pairs))[:, 0], signs)
            for name, bank in banks.items():
                delta = measured.residuals.shift([layer], *sides(bank.pairs))[:, 0]
                made[name].append((delta @ along)[:, None] * along)
        made["image"].append(by_other_image[flipped])
        for name, place in (("residual", layer), ("below", layer - 1)):
            made[name].append(measured.residuals.shift([place], *sides(chosen.pairs))[:, 0])
    whole = _gathered(task, made)
    return DifferenceParts(
        # The controls of a layer are the same however the layers are divided among processes.
        [
            with_controls(found, 1000 * seed + layer, search.vlm.device)
            for layer, found in _gathered_directions(task, own_directions)
        ],
        chosen,
        whole["residual"],
        whole["below"],
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


def _gathered_directions(task: Task, own: Mapping[int, AnswerDirections]) -> list[tuple[int, AnswerDirections]]:
    """Every layer with its directions, from all processes, by layer."""
    parts = task.team.gather_tensors(
        {f"{layer} {name}": t for layer, d in own.items() for name, t in d._asdict().items()}
    )
    tensors = {name: tensor for part in parts for name, tensor in part.items()}
    return [(layer, AnswerDirections(tensors[f"{layer} basis"], tensors[f"{layer} gain"])) for layer in task.layers]


def _gathered(task: Task, made: Mapping[str, Sequence[Tensor]]) -> dict[str, Tensor]:
    """What all processes made, one layer each time, stacked by layer; without what none of them made."""
    own = {name: torch.stack(list(each), 1) for name, each in made.items() if each}
    if task.team.size == 1:
        return own
    gathered = task.team.gather_tensors(own)
    names = dict.fromkeys(name for part in gathered for name in part)
    return {name: torch.cat([part[name] for part in gathered if name in part], dim=1) for name in names}
