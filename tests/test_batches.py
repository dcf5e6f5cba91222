"""Batches of packed rows: how they fill, and what they pad, on each kind of device."""

import pytest
import torch

from interp.model.packing import CPU_POSITIONS, GPU_STEP, Row, batches, collate, length_step

LENGTHS = [300, 301, 319, 320, 321, 352, 353, 700, 5, 90]
ROWS = [Row([place], [1] * (length - 2), [[2, 3]]) for place, length in enumerate(LENGTHS)]


@pytest.mark.parametrize(("device", "allowed"), [("cuda", 1000), ("cuda", 16384), ("cpu", 1000), ("cpu", 16384)])
def test_padded_batches_hold_no_more_positions_than_allowed(device, allowed):
    device = torch.device(device)
    made = list(batches(ROWS, allowed, device))
    shapes = [collate(chunk, 0, length_step(device)).input_ids.shape for chunk in made]
    assert sorted(row.prompts[0] for chunk in made for row in chunk) == list(range(len(ROWS)))
    assert all(
        rows * length <= min(allowed, CPU_POSITIONS if device.type == "cpu" else allowed) for rows, length in shapes
    )
    if device.type == "cuda":
        assert all(length % GPU_STEP == 0 for _, length in shapes)
    else:
        assert [length for _, length in shapes] == [chunk[0].length for chunk in made]


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_prompts_that_get_rows_of_their_own_are_as_many_as_fit_then(device):
    rows = [Row([10 * place, 10 * place + 1], [1] * 90, [[2] * 5, [3] * (5 + place)]) for place in range(8)]
    made = list(batches(rows, 450, torch.device(device), apart=True))
    sizes = [[sum(len(row.prefix) + len(suffix) for suffix in row.suffixes) for row in chunk] for chunk in made]
    assert [len(chunk) for chunk in made] == [2, 2, 2, 2]
    assert all(sum(of_rows) <= 450 < sum(of_rows) + min(map(min, sizes)) for of_rows in sizes)
    assert len(list(batches(rows, 450, torch.device(device)))) < len(made)


def test_batches_of_a_sweep_on_a_cpu_are_of_about_the_same_size():
    rows = [Row([*range(4)], [0] * 30, [[1] * 10] * 4) for _ in range(19)]
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    # 160 positions each: twelve rows fit into a batch.
    assert [len(batch) for batch in batches(rows, 2048, cpu, apart=True)] == [10, 9]
    assert [len(batch) for batch in batches(rows, 2048, cuda, apart=True)] == [12, 7]
    assert [len(batch) for batch in batches(rows[:12], 2048, cpu, apart=True)] == [12]
    assert [len(batch) for batch in batches(rows[:2], 159, cpu, apart=True)] == [1, 1]
    assert list(batches([], 2048, cpu, apart=True)) == []
