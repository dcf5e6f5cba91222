"""The table of layers.json's fields in interp/README.md is that of the schema."""

from layers_table import README, table, updated

from interp.schemas.layers import Layers, ProfileEntry
from interp.schemas.tested_features import CausalEntry, FeatureEntry


def test_the_readme_lists_every_field_as_the_schema_describes_it():
    page = README.read_text(encoding="utf-8")
    assert updated(page) == page, "out of date: run python tests/layers_table.py"


def test_every_field_has_a_row_with_its_meaning():
    rows = [line.split(" | ") for line in table().splitlines()[2:]]
    named = {row[0].strip("|` "): row[2].strip(" |") for row in rows}
    for prefix, schema in (
        ("", Layers),
        ("profile[].", ProfileEntry),
        ("features[].", FeatureEntry),
        ("features[].causal.", CausalEntry),
    ):
        for name in schema.model_fields:
            assert any(named[path] for path in (f"{prefix}{name}", f"{prefix}{name}[]") if path in named), name
