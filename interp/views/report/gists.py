"""What each section of the page comes to, in a few words: what a reader sees of it before opening it."""

from interp.schemas.evaluation import Evaluation
from interp.schemas.layer_list import layers_text
from interp.schemas.layers import Layers
from interp.views.labels import label, scale_of
from interp.views.numbers import number
from interp.views.report import origins
from interp.views.report.collect import Collected
from interp.views.report.explorer import Explorer
from interp.views.tables.ablation import seeds_text
from interp.views.tables.ranges import formality_line

FLIPS = "question_flip_rate"


def gists(found: Collected, items: list[Explorer]) -> dict[str, str]:
    """Anchor of a section -> its gist; empty where the title says all."""
    return {
        "profile": _profile(found.layers) if found.layers else "",
        "features": _features(found),
        "items": _joined([_items(each) for each in items]),
        "training": _joined([layers_text(each.record.layers) for each in found.trained if each.record], "layers "),
        "before-after": _joined([said for _, each in found.evaluations for said in _flips(each)]),
        "quadrants": "consistent or not, relying on the image or not",
        "grounding": _joined([f"{each.study.questions:,} questions" for each in found.grounded]),
        "ablation": _joined([_ablation(len(a.arms), a.settings.get("seeds", [])) for a in found.ablated.values()]),
        "provenance": f"GateScope {', '.join(origins.versions(found))}",
        "limits": f"{len(origins.caveats(found))} to know before you rely on these results",
        "cite": "",
    }


def _joined(parts: list[str], before: str = "") -> str:
    shown = list(dict.fromkeys(part for part in parts if part))
    more = f"; {len(shown) - 2} more" if len(shown) > 2 else ""
    return before + "; ".join(shown[:2]) + more if shown else ""


def _items(explorer: Explorer) -> str:
    """How many wordings of which file there are."""
    named, _, counted = explorer.caption.removeprefix("Every wording of the ").partition(": ")
    return f"{counted.partition(' wordings')[0]} of the {named.partition(', ')[0]}"


def _profile(search: Layers) -> str:
    said = formality_line(search).partition(":")[0]
    return f"{len(search.profile)} layers{f'; {said}' if said else ''}"


def _features(found: Collected) -> str:
    parts = []
    if found.layers and found.layers.features:
        first = found.layers.features[0]
        place = f" ({first.place})" if first.place else ""
        parts.append(f"{len(found.layers.features)} tested, first {first.layer}:{first.feature}{place}")
    if found.screened is not None:
        parts.append(f"{len(found.screened):,} screened")
    parts += [f"{each.study.name} in detail" for each in found.studied]
    return "; ".join(parts)


def _flips(found: Evaluation) -> list[str]:
    """The question flip rate of each arm, before and after."""
    at, scale = found.against_base(), scale_of(FLIPS)
    return [
        f"{arm}: {label(FLIPS)} {number(c.before.value, scale)} → {number(c.after.value, scale)}"
        for arm in found.shown
        if (c := at.get((arm, FLIPS, "all", "all"))) is not None
    ]


def _ablation(arms: int, seeds: list[int]) -> str:
    return f"{arms} arms" + (f", {seeds_text(seeds)}" if seeds else "")
