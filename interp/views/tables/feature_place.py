"""What a studied feature is, in one sentence, what would change that, and the layers through which it acts."""

from typing import NamedTuple

from interp.schemas.layer_list import layers_text
from interp.schemas.record import Interval
from interp.schemas.study import LayerFallEntry, Study
from interp.schemas.tested_features import MEDIATED, Place
from interp.views.numbers import interval, p_phrase
from interp.views.table import Cell, Column, Table, estimate, p_cell, tabulate


def place_lines(study: Study) -> list[str]:
    """What the feature is and what would change that, a sentence each; nothing for a study of an older version."""
    test = study.test
    if test is None or study.place is None or test.net_mediated is None or test.direct is None:
        return []
    says, otherwise = {
        "cause": _cause,
        "mediator": _mediator,
        "contributor": _contributor,
        "echo": _echo,
        "bystander": _bystander,
    }[study.place](study, _Effects(test.net, test.p, test.direct, test.net_mediated))
    return [
        f"{study.name} is {_article(study.place)}: {says}.",
        f"What would change that: {otherwise}.",
        *_family(study),
    ]


def _family(study: Study) -> list[str]:
    """What the feature is jointly with its relatives."""
    together, size = study.family_patch, len(study.family)
    if together is None or study.family_place is None or study.test is None:
        return []
    return [
        f"With its {size} relative{'s' if size > 1 else ''} it is {_article(study.family_place)}: jointly they recover "
        f"{interval(together.recovery)}, it alone {interval(study.test.recovery)}; net mediated recovery "
        f"{interval(together.net_mediated)}."
    ]


def _article(place: Place) -> str:
    return f"an {place}" if place == "echo" else f"a {place}"


class _Effects(NamedTuple):
    """What the place of a feature rests on."""

    net: Interval
    """Recovery net of random directions."""
    p: float | None
    """Its p."""
    direct: Interval
    """The part that the output layer reads."""
    mediated: Interval
    """The part that later layers make, net of random directions."""


def _writers(study: Study) -> str:
    return _layers(study.writing_layers)


def _layers(layers: list[int]) -> str:
    return f"layer{'s' if len(layers) > 1 else ''} {layers_text(layers)}"


def _through(study: Study) -> str:
    """Through which layers the feature acts; empty if no single layer stands out."""
    return f" through {_layers(study.mediating_layers)}" if study.mediating_layers else ""


def _cause(study: Study, test: _Effects) -> tuple[str, str]:
    return (
        f"undoing its change works{_through(study)} (net mediated recovery {interval(test.mediated)}) and undoes "
        f"what {_writers(study)} above it {_verb(study)}",
        f"a net mediated recovery below {MEDIATED:g} would make it {_below(test)}, and a layer from 0 to "
        f"{study.layer} that writes would make it a mediator",
    )


def _mediator(study: Study, test: _Effects) -> tuple[str, str]:
    return (
        f"it lies among the layers that write the answer ({layers_text(study.writing_layers)}), and undoing its change "
        f"works{_through(study)} (net mediated recovery {interval(test.mediated)})",
        f"if no layer from 0 to {study.layer} wrote, it would be a cause, and with a net mediated recovery below "
        f"{MEDIATED:g} {_below(test)}",
    )


def _below(test: _Effects) -> str:
    """What a cause or mediator would be if less were mediated."""
    return "a contributor" if (test.direct.value or 0) < MEDIATED else "an echo"


def _contributor(study: Study, test: _Effects) -> tuple[str, str]:
    return (
        f"{_writers(study)} above it {_verb(study, 'use')} its change, but alone it brings back little (net mediated "
        f"recovery {interval(test.mediated)})",
        f"a net mediated recovery of {MEDIATED:g} would make it a cause or a mediator",
    )


def _echo(study: Study, test: _Effects) -> tuple[str, str]:
    carries = f"it carries the answer but does not make it (net recovery {interval(test.net)}"
    if not study.writing_layers:
        return f"{carries}), as no layer writes the answer above chance", "a layer above it that writes"
    if study.layer >= study.writing_layers[-1]:
        return (
            f"{carries}), as no layer above it writes; {_writers(study)} {_verb(study, 'do')}",
            f"only a layer above {study.layer} that writes the answer",
        )
    return (
        f"{carries}), as later layers make little of its change (net mediated recovery "
        f"{interval(test.mediated)}, direct {interval(test.direct)})",
        f"a mediated part above the direct one would make it a contributor, and {MEDIATED:g} a cause or a mediator",
    )


def _bystander(study: Study, test: _Effects) -> tuple[str, str]:
    return (
        f"undoing its change does not bring the answer back (net recovery {interval(test.net)}, {p_phrase(test.p)})",
        "a net recovery above zero would make it an echo, and a net mediated recovery of "
        f"{MEDIATED:g} below a layer that writes a cause; here it is {interval(test.mediated)}",
    )


def _verb(study: Study, verb: str = "write") -> str:
    """The verb as its subject, the layers that write, asks for."""
    one = len(study.writing_layers) == 1
    return (f"{verb}es" if verb.endswith("o") else f"{verb}s") if one else verb


def mediation_table(study: Study) -> Table:
    """What each layer above the feature makes of its change."""
    falls = study.mediation

    def recovered(fall: LayerFallEntry) -> Cell:
        return estimate(fall.effect)

    return tabulate(
        f"What later layers make of feature {study.name}",
        [
            Column("layer", lambda fall: Cell(str(fall.layer), fall.layer)),
            Column("makes of it", lambda fall: estimate(fall.net_fall), meaning=MAKES),
            Column("p", lambda fall: p_cell(fall.p)),
            Column("left to later layers", recovered, meaning="recovery by the vector added after this layer"),
            Column(
                "writes",
                lambda fall: estimate(
                    next((each.net_write for each in study.writes if each.layer == fall.layer), None)
                ),
                meaning="net direct effect of what the layer itself adds",
            ),
        ],
        falls,
        "Shares of the margin shift. Brackets: 95% intervals over patients.",
        [row for row, fall in enumerate(falls) if fall.layer in study.mediating_layers],
        "a layer through which the feature acts",
    )


MAKES = "what the recovery loses when the patch's vector is added after this layer instead of before, net of random"
"""What the column of the falls holds."""
