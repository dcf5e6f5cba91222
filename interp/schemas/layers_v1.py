"""Reading a `layers.json` of schema version 1: its content under the names of version 2."""

from collections.abc import Mapping
from typing import Any

RULES = {"write": "write", "rise": "growth", "level": "near-peak"}
"""Name of a rule in version 1 -> its name in version 2."""
OWN_PROFILE = {"write": "write", "rise": "recovery", "level": "auc"}
"""Rule of version 1 -> the only score that it reads in version 2. Other combinations were dropped."""
PROFILE_FIELDS = {
    "control": "random_patch",
    "write_control": "random_write",
    "joint": "feature_patch",
    "net_joint": "net_feature_patch",
    "step": None,
}
"""Field of a layer's entry in version 1 -> its name in version 2; None where version 2 has no such field."""
FEATURE_FIELDS = {"firing_rate": "density"}
SETTINGS = {"max_width": "max_layers"}


def upgraded(content: Mapping[str, Any]) -> dict[str, Any]:
    """Content of schema version 1 as version 2 has it.

    What is not of the expected type stays as it is, so that the schema names it as damaged.
    """
    found = {name: value for name, value in content.items() if name != "weights"} | {"schema_version": 2}
    if "rule" in found:
        found["rule"] = _rule(found["rule"])
    for name, fields in (("profile", PROFILE_FIELDS), ("features", FEATURE_FIELDS)):
        if isinstance(found.get(name), list):
            found[name] = [_renamed(entry, fields) for entry in found[name]]
    if isinstance(found.get("ranges"), list):
        found["ranges"] = sorted((_range(entry) for entry in found["ranges"] if _is_kept(entry)), key=_place)
    if isinstance(found.get("settings"), dict):
        found["settings"] = _settings(found["settings"])
    return found


def _renamed(entry: Any, fields: Mapping[str, str | None]) -> Any:
    if not isinstance(entry, dict):
        return entry
    return {new: value for name, value in entry.items() if (new := fields.get(name, name)) is not None}


def _rule(name: Any) -> Any:
    return RULES.get(name, name) if isinstance(name, str) else name


def _is_kept(entry: Any) -> bool:
    """Whether version 2 has a range of the same rule and score; a range without a score is of the rule's own."""
    if not isinstance(entry, dict) or not isinstance(entry.get("rule"), str):
        return True
    return entry.get("profile") in (None, OWN_PROFILE.get(entry["rule"]))


def _range(entry: Any) -> Any:
    entry = _renamed(entry, {"profile": None})
    return entry | {"rule": _rule(entry["rule"])} if isinstance(entry, dict) and "rule" in entry else entry


def _place(entry: Any) -> int:
    """Place of a range's rule in version 2, whose order `verify` relies on."""
    rules = list(RULES.values())
    rule = entry.get("rule") if isinstance(entry, dict) else None
    return rules.index(rule) if rule in rules else len(rules)


def _settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings by their new names; a score that version 2 cannot read stays, so that the run cannot be repeated."""
    found: dict[str, Any] = _renamed(dict(settings), SETTINGS)
    rule = found.get("rule")
    if isinstance(rule, str):
        if found.get("profile") in (None, OWN_PROFILE.get(rule)):
            found.pop("profile", None)
        found["rule"] = _rule(rule)
    return found
