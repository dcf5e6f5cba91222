"""matplotlib figures as inline SVG with the colours of the page, in its light and its dark theme."""

import re
import warnings
from io import BytesIO
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from markupsafe import Markup

from interp.views.figures.style import ACCENT, GOLD, GREEN, INK, MUTED, ORANGE, PURPLE, SKY
from interp.views.report.marks import marks_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {
    INK: "var(--ink)",
    "#000000": "var(--ink)",
    ACCENT: "var(--accent)",
    MUTED: "var(--muted)",
    ORANGE: "var(--orange)",
    GREEN: "var(--green)",
    PURPLE: "var(--purple)",
    SKY: "var(--sky)",
    GOLD: "var(--gold)",
    "#ffffff": "var(--paper)",
}
"""Colour in a figure -> colour on the page."""
DRAWN: Any = {"svg.fonttype": "none", "svg.hashsalt": "gatescope", "savefig.transparent": True}
"""Text stays text, in the font of the page; ids depend only on what they name; the background is transparent."""
PLACES = ("d", "x", "y", "transform")
"""Attributes with coordinates, which are rounded to a hundredth of a point."""
PIXELS = 96 / 72
"""CSS pixels in a point."""
MARK_RADIUS = "5"
"""Radius of the ring around a value that is pointed at [pt]."""
_HEX = re.compile(r"#[0-9a-f]{6}")
_LONG = re.compile(r"-?\d+\.\d{3,}(?![\de])")
_FAMILY = re.compile(r"font-family: [^;]*")
_REFERENCE = re.compile(r"(?:url\(#|href=\"#)([^)\"]+)")


class Styles:
    """The style attributes of all SVGs of a page, turned into classes so that the page needs no inline style."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        """Declarations -> name of the class."""

    def name_of(self, declarations: str) -> str:
        """The name of the class with these declarations, which is made if there is none."""
        return self.names.setdefault(declarations, f"g{len(self.names)}")

    def css(self) -> str:
        """The classes as a style sheet."""
        return "\n".join(f".{name}{{{declarations}}}" for declarations, name in self.names.items())


def inline_svg(figure: "Figure", name: str, alternative: str, styles: Styles) -> Markup:
    """A figure as an SVG element inside an HTML page; it loads nothing from elsewhere.

    Its ids begin with `name`, so that several SVGs can stand on one page; `alternative` is the alternative text; its
    style attributes become classes in `styles`. Every value of a series has an invisible ring with the value as its
    title, which the script of the page shows.
    """
    import matplotlib as mpl

    file = BytesIO()
    with mpl.rc_context(DRAWN), warnings.catch_warnings():
        # The browser finds letters that a font lacks, and long names are handled elsewhere.
        warnings.simplefilter("ignore", UserWarning)
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    root = ElementTree.fromstring(file.getvalue())
    _, _, width, _ = root.attrib["viewBox"].split()
    for parent in list(root.iter()):
        for child in [c for c in parent if _local_name(c.tag) in ("metadata", "style")]:
            parent.remove(child)
    used = set(_REFERENCE.findall(file.getvalue().decode()))
    for element in root.iter():
        element.tag = _local_name(element.tag)
        if element.get("id") not in used:
            element.attrib.pop("id", None)
        element.attrib = _attributes(element.attrib, name, styles)
        # Line breaks between elements would be a third of the file.
        element.text, element.tail = (part if part and part.strip() else None for part in (element.text, element.tail))
    for mark in marks_of(figure):
        ring = ElementTree.SubElement(root, "circle", {"class": "mark", "r": MARK_RADIUS})
        ring.attrib |= {"cx": f"{mark.x:g}", "cy": f"{mark.y:g}"}
        ElementTree.SubElement(ring, "title").text = mark.text
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "width": f"{PIXELS * float(width):.0f}",
        "role": "img",
        "aria-label": alternative,
    }
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _attributes(given: dict[str, str], name: str, styles: Styles) -> dict[str, str]:
    found = {}
    for key, value in given.items():
        key, value = _local_name(key), value.replace("url(#", f"url(#{name}-")
        if key in PLACES:
            value = _LONG.sub(lambda number: f"{float(number[0]):.2f}", value)
        if key == "id":
            value = f"{name}-{value}"
        elif key == "href":
            value = f"#{name}-{value.removeprefix('#')}"
        elif key == "style":
            key, value = "class", styles.name_of(_FAMILY.sub("font-family: var(--chart)", _HEX.sub(_themed, value)))
        found[key] = value
    return found


def _themed(colour: re.Match[str]) -> str:
    """The colour on the page: a named colour by its name, a grey as a mixture of ink and paper, any other unchanged."""
    found = colour[0]
    if found in COLOURS:
        return COLOURS[found]
    red, green, blue = (int(found[i : i + 2], 16) for i in (1, 3, 5))
    if red == green == blue:
        return f"color-mix(in srgb, var(--ink) {100 * (1 - red / 255):.0f}%, var(--paper))"
    return found


def _local_name(name: str) -> str:
    return name.rpartition("}")[2]
