"""Every artifact matches its JSON Schema, every field is described, and files of earlier versions are still read."""

import json
from pathlib import Path

import pandas as pd
import pytest
from figure_data import FOLDERS
from jsonschema import Draft202012Validator
from report_run import write_run

from interp.comparison.compare import compare
from interp.runtime.errors import InputError
from interp.schemas.ablation import ArmRecord
from interp.schemas.artifacts import ARTIFACTS, json_schema
from interp.schemas.import_report import ImportReport
from interp.schemas.items import ItemsRecord
from interp.schemas.read import newest_version, read_artifact
from interp.schemas.study import Study
from interp.schemas.transfer import Transfer
from interp.screening.transfer import TransferResult
from interp.storage.checks import near, same
from interp.storage.json_files import json_ready, write_json
from interp.storage.manifest import read_manifest, write_manifest
from interp.storage.provenance import provenance, software

EARLIER = Path(__file__).with_name("earlier")
RENAMED = {"study": {"density": "firing_rate"}, "manifest": {"inputs": "made_of"}}
"""Artifact -> field -> its name in the files of earlier versions in tests/earlier."""


def fields(schema):
    """Every property of a JSON Schema, as (object, name, property)."""
    for title, found in {"the whole": schema, **schema.get("$defs", {})}.items():
        for name, described in found.get("properties", {}).items():
            yield title, name, described


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Name of an artifact -> files of it, all written by the code that the commands use."""
    root = tmp_path_factory.mktemp("artifacts")
    write_run(root / "run")
    for name, write in FOLDERS.items():
        write(root / "figures" / name)
    write_manifest(root, {path.name: path for path in (root / "run").glob("*.json")}, {"seed": 0})
    entry = {"prompts": "general", "layer": 4, "tokens": 10, "r2": 0.9, "r2_low": None, "r2_high": None, "p": 1.0}
    entry |= {"verdict": "fail", "fvu": 0.1, "l0": 20.5, "dead": 0.5, "drift": float("nan"), "shift": 0.01}
    made = {"seed": 0, "software": software(), "provenance": provenance()}
    transfer = TransferResult(model="m", reference=None, r2_needed=0.95, layers=[entry], **made)
    (root / "transfer.json").write_text(transfer.to_json())
    arm = ArmRecord(kind="base", layers=[], match={"seed": 0}, training=None, software=software())
    (root / "arm.json").write_text(arm.to_json())
    (root / "import_report.json").write_text(ImportReport(format="jsonl", questions=3).model_dump_json())
    write_json(
        root / "checks.json", json_ready([same("verdict", "a", "b"), near("rates", {"a": 1.0}, {"a": 2.0}, 0.1)])
    )
    (root / "items.json").write_text(ItemsRecord(kind="search", data="00", with_text=False).to_json())
    (root / "comparison.json").write_text(compare(root / "run", root / "run").to_json())
    return {name: sorted(root.rglob(f"{name}.json")) for name in ARTIFACTS}


@pytest.mark.parametrize("name", ARTIFACTS)
def test_what_is_written_matches_its_schema(written, name):
    schema = json_schema(name)
    Draft202012Validator.check_schema(schema)
    assert written[name], "no such artifact was written"
    for path in written[name]:
        errors = list(Draft202012Validator(schema).iter_errors(json.loads(path.read_text())))
        assert not errors, f"{path}: {errors[0].json_path}: {errors[0].message}"


@pytest.mark.parametrize("name", ARTIFACTS)
def test_every_field_is_described(name):
    for title, field, described in fields(json_schema(name)):
        text = described.get("description", "")
        assert len(text.split()) > 1, f"{title}, {field}: {text!r}"
        assert not text.endswith("."), f"{title}, {field}: a description is a phrase, not a sentence with a period"


def test_the_command_writes_a_schema_for_every_artifact(called, tmp_path):
    code, out, _ = called("interp", "schemas", "--out", tmp_path / "schemas")
    assert code == 0
    assert out.split() == [str(tmp_path / "schemas" / f"{name}.schema.json") for name in ARTIFACTS]
    for name in ARTIFACTS:
        assert json.loads((tmp_path / "schemas" / f"{name}.schema.json").read_text()) == json_schema(name)
    code, _, err = called("interp", "schemas", "--out", tmp_path / "schemas")
    assert (code, "already exists" in err) == (2, True)


@pytest.mark.parametrize("path", sorted(EARLIER.glob("*.json")), ids=lambda path: path.stem)
def test_files_of_earlier_versions_keep_every_number(path):
    content = json.loads(path.read_text())
    kind = ARTIFACTS[path.stem]
    found = read_manifest(EARLIER) if path.stem == "manifest" else read_artifact(path, kind)
    assert found.schema_version == content["schema_version"] <= newest_version(kind)
    # Without what later versions added.
    again = json.loads(found.model_dump_json(exclude_unset=True))
    for new, old in RENAMED.get(path.stem, {}).items():
        again[old] = again.pop(new)
    assert again == content


@pytest.mark.parametrize("name", ["study", "evaluation", "gatescope", "ablation", "grounding"])
def test_files_of_later_versions_are_refused(tmp_path, name):
    path = tmp_path / f"{name}.json"
    newest = newest_version(ARTIFACTS[name])
    path.write_text(json.dumps(json.loads((EARLIER / path.name).read_text()) | {"schema_version": newest + 1}))
    with pytest.raises(InputError, match=rf"{name}\.json: schema version {newest + 1}, but .* reads up to {newest}"):
        read_artifact(path, ARTIFACTS[name])


def test_the_table_of_a_transfer_check_has_its_columns(written):
    found = TransferResult.model_validate_json(written["transfer"][0].read_text())
    assert isinstance(found, Transfer)
    assert found.failed("general") == [4]
    assert pd.isna(found.table["drift"]).all()
    assert found.table["l0"].tolist() == [20.5]


@pytest.mark.parametrize("version", ["2", "9", -1, 0, True, 1.0, None, [1]])
def test_a_version_that_is_none_is_refused(tmp_path, version):
    path = tmp_path / "study.json"
    path.write_text(json.dumps({"schema_version": version}))
    with pytest.raises(InputError, match=r"schema_version is .*, expected a whole number from 1 to 2"):
        read_artifact(path, Study)
