"""What a feature stands for: its tables (the part `content` of study.json), and the wordings that activate it."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pandas as pd

from interp.schemas.feature_content import FeatureContent, TokenEffect
from interp.schemas.study import Study
from interp.views.numbers import PERCENT, Scale, number, spoken
from interp.views.overview import Facts
from interp.views.table import Cell, Column, Table, count, estimate, tabulate, value, words

TOKEN_SCALE = Scale(1.0, 3)
"""How effects of one activation unit on a logit are printed; they are small."""


def content_facts(study: Study) -> Facts:
    """Which SAE the feature is of, and its page on Neuronpedia or the nearest one."""
    content = study.content
    known: Facts = []
    if content is not None and content.sae is not None:
        source = content.sae
        from_hub = f" of {source.repository}@{(source.revision or '')[:8]}" if source.repository else ", a local folder"
        known.append(("SAE", f"{source.folder}{from_hub}, digest {source.digest[:8]}"))
    if study.neuronpedia:
        known.append(("Neuronpedia", study.neuronpedia))
    elif content is not None and (near := content.nearest_page) is not None:
        known.append(
            (
                "Neuronpedia, approximate",
                f"{near.address} (feature {near.layer}:{near.feature}, decoder cosine {number(near.cosine)})",
            )
        )
    return known


class _Tokens(NamedTuple):
    promoted: TokenEffect | None
    suppressed: TokenEffect | None


def tokens_table(content: FeatureContent, name: str) -> Table:
    """The tokens that the decoder row promotes and suppresses, side by side."""
    most = max(len(content.promoted), len(content.suppressed))
    rows = [_Tokens(_at(content.promoted, place), _at(content.suppressed, place)) for place in range(most)]

    def logits(effect: TokenEffect | None) -> Cell:
        return value(effect.logits if effect else None, TOKEN_SCALE, sign=True)

    return tabulate(
        f"Tokens that feature {name} promotes and suppresses",
        [
            words("promotes", lambda row: repr(row.promoted.token) if row.promoted else ""),
            Column("logits", lambda row: logits(row.promoted)),
            words("suppresses", lambda row: repr(row.suppressed.token) if row.suppressed else ""),
            Column("logits", lambda row: logits(row.suppressed)),
        ],
        rows,
        "Logits that one activation unit adds, read by the final norm and the unembedding alone.",
    )


def _at(effects: Sequence[TokenEffect], place: int) -> TokenEffect | None:
    return effects[place] if place < len(effects) else None


def firing_table(content: FeatureContent, name: str) -> Table:
    """Where the feature is active: by register, phenomenon, finding and position."""
    return tabulate(
        f"Where feature {name} is active",
        [
            words("group", lambda firing: spoken(firing.group)),
            words("by", lambda firing: firing.grouping),
            Column("wordings", lambda firing: count(firing.wordings)),
            Column("active [%]", lambda firing: estimate(firing.active, PERCENT)),
            Column("mean activation", lambda firing: estimate(firing.mean)),
        ],
        content.firing,
        "At the final token, but for positions, which count from the end of the prompt in a sample of the wordings; "
        "for earlier positions, wordings counts tokens. Brackets: 95% intervals over patients.",
    )


def wordings_table(wordings: pd.DataFrame, name: str) -> Table:
    """The wordings that activate the feature most and least; it shows question text."""
    rows: list[dict[str, Any]] = [dict(zip(wordings, row, strict=True)) for row in wordings.itertuples(index=False)]
    return tabulate(
        f"Wordings that activate feature {name} most and least",
        [
            words("", lambda row: row["end"]),
            words("wording", lambda row: row["text"]),
            Column("images", lambda row: count(int(row["images"]))),
            Column("mean activation", lambda row: value(float(row["mean_activation"]))),
            words("register", lambda row: row["register"]),
        ],
        rows,
        "Different wordings, by their mean activation over the images that they were asked about.",
    )


def content_line(content: FeatureContent, name: str) -> str:
    """One paragraph on a feature, from the facts of its content alone."""
    return " ".join(_sentences(content, name))


def _sentences(content: FeatureContent, name: str) -> Iterator[str]:
    by_register = {each.group: each for each in content.firing if each.grouping == "register"}
    if {"formal", "casual"} <= set(by_register):
        formal, casual = (by_register[group] for group in ("formal", "casual"))
        shares = [f"{100 * (each.active.value or 0):.0f}%" for each in (formal, casual)]
        means = [f"{each.mean.value or 0:.3g}" for each in (formal, casual)]
        yield (
            f"{name} is active on {shares[0]} of the formal and {shares[1]} of the casual wordings, with mean "
            f"activations of {means[0]} and {means[1]}."
        )
    findings = [each for each in content.firing if each.grouping == "finding" and each.mean.value is not None]
    if len(findings) > 1:
        top = max(findings, key=lambda each: each.mean.value or 0)
        yield f"Of the findings it is most active on {top.group} ({top.mean.value:.3g})."
    positions = [each for each in content.firing if each.grouping == "position"]
    if positions:
        place = max(positions, key=lambda each: each.mean.value or 0)
        yield f"In the prompt it is most active at {place.group}."
    for said, tokens in (("promotes", content.promoted), ("suppresses", content.suppressed)):
        shown = ", ".join(repr(each.token) for each in tokens[:5])
        yield f"Its decoder {said} {shown}."
