"""Rendering the report: collected artifacts, their tables and charts, in the template, as one HTML file."""

import base64
from itertools import count
from pathlib import Path

from markupsafe import Markup

from interp.runtime.errors import InputError
from interp.storage.atomic import refuse_unwritable, refuse_used, write_text
from interp.views import numbers
from interp.views.report import charts, evaluation, feature_cards, origins
from interp.views.report.collect import Collected, collect
from interp.views.report.feature_explorer import feature_explorer
from interp.views.report.gists import gists
from interp.views.report.item_explorer import item_explorers
from interp.views.report.page import policy, resource, template
from interp.views.report.svg import Styles
from interp.views.tables import ablation as ablation_tables
from interp.views.tables import arms as arm_tables
from interp.views.tables import claims as claim_tables
from interp.views.tables import definitions as definition_tables
from interp.views.tables import detection as detection_tables
from interp.views.tables import evaluation as evaluation_tables
from interp.views.tables import feature as feature_tables
from interp.views.tables import feature_content as content_tables
from interp.views.tables import gate as gate_tables
from interp.views.tables import grounding as grounding_tables
from interp.views.tables import measured as measured_tables
from interp.views.tables import ranges as range_tables
from interp.views.tables import search as search_tables
from interp.views.tables import training as training_tables

ARMS_ON_TOP = 4
"""Most arms in the table at the top of the page, which shows the verdict within two screens."""


def write_report(run: Path, out: Path, include_examples: bool = False, include_text: bool = False) -> None:
    """Write the report on the folder `run` into the new file `out`, atomically.

    The report holds nothing of the questions but counts; with `include_examples` it shows images, with `include_text`
    the wordings that a feature study kept, and says so. Those of the embedded world are always shown. Raises
    InputError if `out` exists, if `run` holds nothing to report or a damaged file, and if examples are missing.
    """
    refuse_unwritable(out)
    if out.is_dir():
        raise InputError(f"{out}: is a folder. Give --out the name of a new HTML file.")
    # Reading takes a moment, and a folder that is not there should be said before a report that is.
    found = collect(run, include_examples, include_text)
    refuse_used(out)
    write_text(out, render(found))


def render(found: Collected) -> str:
    """The page as text. The same artifacts give the same page, and it loads nothing from elsewhere."""
    styles = Styles()
    drawn = charts.draw_all(found, styles)
    ids = count(1)
    script = "\n".join(resource(name) for name in ("page.js", "values.js", "explorer.js"))
    item_tables, screened = item_explorers(found.items), feature_explorer(found.layers, found.screened)
    # The classes of the charts are known only once they are drawn.
    style = resource("style.css") + styles.css()
    return template("template.html.j2").render(
        found=found,
        charts=drawn,
        contents=_contents(found),
        gists=gists(found, item_tables),
        item_tables=item_tables,
        screened=screened,
        shows_item_texts=any(each.texts for each in found.items),
        arms_on_top=ARMS_ON_TOP,
        script=Markup(script),
        style=Markup(style),
        policy=policy(script, style, found.examples),
        title=f"GateScope report: {_model_of(found)}",
        data_uri=_data_uri,
        new_id=lambda kind: f"{kind}-{next(ids)}",
        feature_cards=feature_cards,
        evaluations=evaluation,
        origins=origins,
        sentence=numbers.sentence,
        arm_tables=arm_tables,
        search_tables=search_tables,
        gate_tables=gate_tables,
        claim_tables=claim_tables,
        range_tables=range_tables,
        feature_tables=feature_tables,
        content_tables=content_tables,
        evaluation_tables=evaluation_tables,
        definition_tables=definition_tables,
        detection_tables=detection_tables,
        measured_tables=measured_tables,
        grounding_tables=grounding_tables,
        ablation_tables=ablation_tables,
        training_tables=training_tables,
    )


def _contents(found: Collected) -> dict[str, str]:
    """The sections that there is something for, in order: anchor -> title."""
    trained, evaluations = found.trained, found.evaluations
    sections = [
        ("profile", "Layer profile", found.layers is not None and bool(found.layers.profile)),
        ("features", "Features", bool(found.studied or (found.layers and found.layers.features))),
        ("items", "Every wording", bool(found.items)),
        ("training", "Training", any(each.record or each.history is not None for each in trained)),
        ("before-after", "Before and after", bool(evaluations)),
        ("quadrants", "Quadrants", any(evaluation.quadrants for _, evaluation in evaluations)),
        ("grounding", "Where it looks", bool(found.grounded)),
        ("ablation", "Did the choice matter?", bool(found.ablated)),
        ("provenance", "Settings and provenance", True),
        ("limits", "Limits", bool(origins.caveats(found))),
        ("cite", "How to cite", True),
    ]
    return {anchor: title for anchor, title, present in sections if present}


def _model_of(found: Collected) -> str:
    """The model that was studied."""
    if found.layers:
        return found.layers.model.id
    named = [each.study.model for each in found.studied]
    named += [evaluation.model for _, evaluation in found.evaluations]
    named += [each.record.model.id for each in found.trained if each.record]
    named += [each.study.model for each in found.grounded] + [each.model.id for each in found.ablated.values()]
    return next(iter(named), "a training")


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
