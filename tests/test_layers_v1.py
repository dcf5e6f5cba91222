"""A layers.json of schema version 1, as GateScope 0.1 wrote it (`layers_v1.json`), is read under the new names.

One of version 2 is read as it is.
"""

import json
from pathlib import Path

import pytest
from layers_files import layers_document

from interp.runtime.errors import InputError
from interp.schemas.layers import SCHEMA_VERSION, TRAINABLE, read_layers, write_layers
from interp.schemas.layers_v1 import upgraded

OLD = Path(__file__).with_name("layers_v1.json")
ADDED = {"answer", "random_answer", "answer_growth", "growth_p", "register_patch", "random_register"}
"""Fields of the profile that versions 3 and 4 added."""


@pytest.fixture
def old():
    return json.loads(OLD.read_text())


def test_every_number_is_found_under_its_new_name(old):
    found = read_layers(OLD)
    assert (found.schema_version, found.verdict, found.layers) == (SCHEMA_VERSION, old["verdict"], old["layers"])
    renamed = {"random_patch": "control", "random_write": "write_control", "feature_patch": "joint"}
    renamed |= {"net_feature_patch": "net_joint"}
    for before, entry in zip(old["profile"], found.profile, strict=True):
        now = entry.model_dump()
        assert {now.pop(name) for name in ADDED} == {None}
        assert set(before) - {"step", *renamed.values()} == set(now) - set(renamed)
        assert now == {name: before[renamed.get(name, name)] for name in now}
    for before, feature in zip(old["features"], found.features, strict=True):
        now = feature.model_dump(exclude_unset=True)
        assert now == {name: before["firing_rate" if name == "density" else name] for name in now}
        assert set(now) - {"density"} == set(before) - {"firing_rate"}


def test_ranges_and_settings_go_by_the_new_rules(old):
    found = read_layers(OLD)
    own = {(entry["rule"], entry["profile"]): entry for entry in old["ranges"]}
    for entry, name in zip(found.ranges, (("write", "write"), ("rise", "recovery"), ("level", "auc")), strict=True):
        assert (entry.first, entry.last, entry.peak) == tuple(own[name][end] for end in ("first", "last", "peak"))
    # In the order of a new search, which `interp verify --full` compares them with.
    assert [entry.rule for entry in found.ranges] == ["write", "growth", "near-peak"]
    assert (found.settings["rule"], found.settings["max_layers"]) == ("write", old["settings"]["max_width"])
    assert not {"max_width", "profile"} & set(found.settings)


@pytest.mark.parametrize(("rule", "profile", "kept"), [("rise", "recovery", False), ("level", "net", True)])
def test_a_score_that_no_rule_reads_any_more_stays_in_the_settings(old, rule, profile, kept):
    settings = upgraded(old | {"settings": {"rule": rule, "profile": profile}})["settings"]
    assert ("profile" in settings) == kept
    assert settings["rule"] == {"rise": "growth", "level": "near-peak"}[rule]


def test_an_upgraded_file_is_read_again(tmp_path):
    write_layers(read_layers(OLD), tmp_path / "layers.json")
    assert read_layers(tmp_path) == read_layers(tmp_path / "layers.json") == read_layers(OLD)


@pytest.mark.parametrize(
    ("field", "value"),
    [("profile", 3), ("profile", [None]), ("ranges", ["x"]), ("ranges", {}), ("settings", 0), ("rule", [])],
)
def test_damage_is_named_as_in_a_new_file(old, tmp_path, field, value):
    (tmp_path / "layers.json").write_text(json.dumps(old | {field: value}))
    with pytest.raises(InputError, match=f"layers.json: field {field}"):
        read_layers(tmp_path / "layers.json")


def test_a_file_of_version_2_is_read_as_it_is(tmp_path):
    """Versions 3 and 4 added fields, verdicts and a rule."""
    older = layers_document("m", 3, 8)
    assert older["schema_version"] == 2
    path = tmp_path / "layers.json"
    path.write_text(json.dumps(older))
    found = read_layers(path)
    assert (found.schema_version, found.formality) == (SCHEMA_VERSION, None)
    assert {getattr(entry, name) for entry in found.profile for name in ADDED} == {None}
    assert {(entry.rule, entry.share, entry.formed, entry.restored, entry.broken) for entry in found.ranges} == {
        ("write", None, None, None, None)
    }
    now = json.loads(found.model_dump_json(exclude_unset=True))
    assert now.pop("schema_version") == SCHEMA_VERSION
    assert now == {name: value for name, value in older.items() if name != "schema_version"}
    write_layers(found, path)
    assert read_layers(path) == found


@pytest.mark.parametrize("verdict", TRAINABLE)
def test_every_verdict_is_read(tmp_path, verdict):
    content = layers_document("m", 3, 8) | {"schema_version": SCHEMA_VERSION, "verdict": verdict, "rule": "answer"}
    path = tmp_path / "layers.json"
    path.write_text(json.dumps(content))
    assert (read_layers(path).verdict, read_layers(path).rule) == (verdict, "answer")
    path.write_text(json.dumps(content | {"schema_version": SCHEMA_VERSION + 1}))
    with pytest.raises(InputError, match=f"schema version {SCHEMA_VERSION + 1}"):
        read_layers(path)
