"""A comparison as one HTML page that opens offline."""

from itertools import count

from markupsafe import Markup

from interp.schemas.comparison import Comparison
from interp.views.report.page import policy, resource, template
from interp.views.tables.comparison import (
    changes_table,
    comparison_overview,
    facts_table,
    features_table,
    moves_table,
    profile_table,
)


def render_comparison(found: Comparison) -> str:
    """The page as text; it holds no question, path or patient, and loads nothing from elsewhere."""
    overview, ids = comparison_overview(found), count(1)
    tables = [changes_table(found), facts_table(found), moves_table(found), features_table(found), profile_table(found)]
    script, style = resource("page.js"), resource("style.css")
    return template("comparison.html.j2").render(
        overview=overview,
        tables=[table for table in tables if table.rows],
        script=Markup(script),
        style=Markup(style),
        policy=policy(script, style, images=False),
        title=f"GateScope comparison: {found.a} and {found.b}",
        new_id=lambda kind: f"{kind}-{next(ids)}",
        charts={},
    )
