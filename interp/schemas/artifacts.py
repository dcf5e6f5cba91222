"""Every artifact's file name and schema, and their JSON Schemas for others to check files with."""

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from interp.schemas.ablation import Ablation, ArmRecord
from interp.schemas.adapter import AdapterRecord
from interp.schemas.comparison import Comparison
from interp.schemas.evaluation import Evaluation
from interp.schemas.grounding import Grounding
from interp.schemas.import_report import ImportReport
from interp.schemas.items import ItemsRecord
from interp.schemas.layers import Layers
from interp.schemas.study import Study
from interp.schemas.transfer import Transfer
from interp.storage.atomic import atomic_folder
from interp.storage.checks import Check
from interp.storage.json_files import write_json
from interp.storage.manifest import Manifest

ARTIFACTS: dict[str, Any] = {
    "layers": Layers,
    "study": Study,
    "evaluation": Evaluation,
    "gatescope": AdapterRecord,
    "ablation": Ablation,
    "arm": ArmRecord,
    "grounding": Grounding,
    "manifest": Manifest,
    "import_report": ImportReport,
    "transfer": Transfer,
    "comparison": Comparison,
    "items": ItemsRecord,
    "checks": list[Check],
}
"""Name of an artifact -> its schema.

`arm` is the record that a Parquet file of an arm's answers holds under the key "gatescope", `items` that of
items.parquet (`interp.schemas.items` lists its columns), `checks` the output of `verify --json`.
"""


def json_schema(name: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of an artifact as this version writes it."""
    schema = TypeAdapter(ARTIFACTS[name]).json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def write_json_schemas(out: Path) -> list[Path]:
    """Write NAME.schema.json of every artifact into the new folder `out`, and return the paths.

    Raises InputError if `out` is not empty.
    """
    names = [f"{name}.schema.json" for name in ARTIFACTS]
    with atomic_folder(out) as folder:
        for artifact, name in zip(ARTIFACTS, names, strict=True):
            write_json(folder / name, json_schema(artifact))
    return [out / name for name in names]
