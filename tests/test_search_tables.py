"""A search on the terminal: its evidence and its sentences are those of layers.json, for every verdict."""

from io import StringIO
from pathlib import Path

import pytest
from pages import numbers
from report_run import Draw, layers
from rich.console import Console

from interp.schemas.layers import GateEntry, Interval, Layers
from interp.views.table import Cell, Column, Table
from interp.views.tables.claims import claims_table
from interp.views.tables.deciding import search_deciding
from interp.views.tables.gate import families_table, gate_line
from interp.views.tables.ranges import formality_line, range_line, ranges_table
from interp.views.tables.search import profile_table
from interp.views.terminal.search import show_search


@pytest.fixture
def found() -> Layers:
    return layers(Draw(), gate=True)


def printed(found: Layers, columns: int = 80, full: bool = False) -> str:
    out = StringIO()
    show_search(found, Path("nowhere/layers.json"), Console(file=out, width=columns), full=full)
    return out.getvalue()


def shown(measured: Interval) -> list[float]:
    return [round(end, 2) + 0.0 for end in (measured.value, measured.low, measured.high)]


def test_what_decided_is_the_test_of_the_chosen_rule_s_range(found):
    chosen = found.model_copy(update={"rule": "near-peak"})
    taken = chosen.ranges[2]
    rows = search_deciding(chosen).rows
    measured = [taken.share, taken.arrived, taken.restored, taken.broken, found.formality.recovery]
    assert [numbers(row[1].text) for row in rows[:5]] == [shown(each) for each in measured]
    controls = [taken.formed, None, taken.random_restored, taken.random_broken, found.formality.random]
    for row, control in zip(rows, controls, strict=False):
        # Nothing is below layer 0, so nothing is exchanged there at random.
        assert numbers(row[2].text) == (shown(control) if control else [])
    assert all("layers 0-2" in row[0].text for row in rows[:4])


def test_the_family_that_is_the_gate_stands_beside_the_single_feature(found):
    family = found.families[0]
    family.recovery = Interval(value=0.83, low=0.7, high=0.9)
    family.net = Interval(value=0.8, low=0.6, high=0.9)
    family.net_mediated = Interval(value=0.69, low=0.61, high=0.77)
    single = found.model_copy(update={"gate": GateEntry(feature=20, read_layer=1, write_layers=[3])})
    gate = GateEntry(feature=4, family=[9, 3], read_layer=0, write_layers=[2, 3])
    rows = search_deciding(found.model_copy(update={"gate": gate})).rows
    assert [row[0].text for row in rows[:-1]] == [row[0].text for row in search_deciding(single).rows]
    assert "family 0:4 + 2, net mediated" in rows[-1][0].text
    assert numbers(rows[-1][0].text)[-3:] == shown(family.net_mediated)
    assert [numbers(cell.text) for cell in rows[-1][1:]] == [shown(family.recovery), [0.03]]
    text = printed(found.model_copy(update={"gate": gate}))
    assert ".83 [" in text
    assert all(len(line) <= 80 for line in text.split("\nnote")[0].splitlines())


def test_one_screen_of_80_columns_shows_verdict_evidence_and_register(found):
    text = printed(found)
    assert all(len(line) <= 80 for line in text.split("\nnote")[0].splitlines())
    assert f"{found.verdict}: {found.reason}" in text
    assert formality_line(found) in text
    assert range_line(found) in text
    for row in search_deciding(found).rows:
        assert numbers(row[1].text)[0] in numbers(text)


def test_all_tables_fit_a_wide_terminal_and_show_every_rule(found):
    text = printed(found, 200, full=True)
    for entry in found.ranges:
        (line,) = [line for line in text.splitlines() if line.startswith(entry.rule)]
        beside = (entry.restored, entry.random_restored.value, entry.broken, entry.random_broken.value)
        expected = [*shown(entry.share), *shown(entry.formed), *shown(entry.arrived)]
        for each in beside:
            expected += shown(each) if isinstance(each, Interval) else [round(each, 2) + 0.0]
        assert numbers(line.partition(f"{entry.first}-{entry.last}")[2]) == expected


@pytest.mark.parametrize(
    ("verdict", "trained", "peak", "said"),
    [
        ("gate found", [1, 2], 2, "layers 1-2, by rule answer, peak 2"),
        ("spread over layers", [0, 1, 3], None, "layers 0-1, 3, all in which the answer changes"),
        ("no gate found", [], None, "no layers"),
    ],
)
def test_the_layers_to_train_are_named_with_their_ground(found, verdict, trained, peak, said):
    assert range_line(found.model_copy(update={"verdict": verdict, "layers": trained, "peak": peak})) == said


def test_a_cause_without_a_gate_is_named_and_no_gate_feature(found):
    found.features[0].place = "cause"
    about = {"verdict": "as answers form", "gate": None}
    assert gate_line(found.model_copy(update=about)) == "gate feature: none found, as no gate was found; causes: 1:20"
    found.families[0].place = "cause"
    assert gate_line(found.model_copy(update=about)).endswith("; causes: 1:20; families that are causes: 0:4 + 2")


def test_a_family_is_named_with_the_layers_that_read_and_write(found):
    family = found.families[0]
    family.place = "cause"
    gate = GateEntry(feature=4, family=[9, 3], read_layer=0, mediating_layers=[1], write_layers=[2, 3])
    said = gate_line(found.model_copy(update={"gate": gate}))
    assert said.startswith("gate family: 0:4 with its relatives 9, 3, net mediated recovery ")
    assert numbers(said.split("recovery")[1])[:3] == shown(family.net_mediated)
    assert said.endswith("; no single feature is a cause; layer 1 reads it; the answer is written in layers 2-3")
    alone = GateEntry(feature=20, read_layer=1, mediating_layers=[2, 3], write_layers=[3])
    said = gate_line(found.model_copy(update={"gate": alone}))
    assert said.startswith("gate feature: 1:20, mediated recovery ")
    assert said.endswith("; layers 2-3 read it; the answer is written in layer 3")


def test_families_stand_beside_their_first_feature_alone(found):
    alone = found.features[0].causal
    alone.net_mediated = Interval(value=0.25, low=0.2, high=0.5)
    rows = families_table(found).rows
    assert [row[0].text for row in rows] == ["0:4 + 2", "1:20 + 0"]
    for row, entry in zip(rows, found.families, strict=True):
        assert numbers(row[4].text) == shown(entry.recovery)
        assert numbers(row[5].text) == shown(entry.net_mediated)
    # 0:4 was not patched alone.
    assert [numbers(row[7].text) for row in rows] == [[], [0.25, 0.2, 0.5]]


def test_without_tagged_wordings_nothing_is_said_of_the_register(found):
    untagged = found.model_copy(update={"formality": None})
    for entry in untagged.profile:
        entry.register_patch = entry.random_register = None
    assert formality_line(untagged) == ""
    assert "register" not in printed(untagged)
    headings = [column.heading for column in profile_table(untagged).columns]
    assert "register patch" not in headings
    assert "answer patch" in headings
    assert len(claims_table(untagged).rows) == len(claims_table(found).rows) - 1


def test_a_table_keeps_the_columns_that_hold_something_in_any_row():
    columns = [Column(name, Cell) for name in ("layer", "never", "once")]
    table = Table("t", columns, [[Cell("0"), Cell("–"), Cell("–")], [Cell("1"), Cell("–"), Cell("2")]])
    kept = table.known()
    assert [column.heading for column in kept.columns] == ["layer", "once"]
    assert [[cell.text for cell in row] for row in kept.rows] == [["0", "–"], ["1", "2"]]
    empty = Table("t", columns, [])
    assert empty.known() is empty


def test_a_search_that_ranks_no_range_has_an_empty_table(found):
    assert ranges_table(found.model_copy(update={"ranges": []})).rows == []
