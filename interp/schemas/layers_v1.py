"""Converts the content of a `layers.json` of schema version 1 to version 2."""

from collections.abc import Mapping
from typing import Any

RULES = {"write": "write", "rise": "growth", "level": "near-peak"}
"""Name of a rule in version 1 -> its name in version 2."""
OWN_PROFILE = {"write": "write", "rise": "recovery", "level": "auc"}
"""Rule of version 1 -> the score that the same rule reads in version 2, which knows no other combination."""
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
    """Convert content of schema version 1 to version 2.

    Values of an unexpected type are kept, so that validation reports them.
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
    """Whether version 2 knows a range's rule and score. A range that names no score has that of its rule."""
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
    """The settings by their new names. A score unknown to version 2 is kept, so that repeating the run is refused."""
    found: dict[str, Any] = _renamed(dict(settings), SETTINGS)
    rule = found.get("rule")
    if isinstance(rule, str):
        if found.get("profile") in (None, OWN_PROFILE.get(rule)):
            found.pop("profile", None)
        found["rule"] = _rule(rule)
    return found
