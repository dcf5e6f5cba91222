"""Parses an HTML page for tests: its elements, its tables by caption, and its text by section."""

import re
from html.parser import HTMLParser
from typing import NamedTuple

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Element(NamedTuple):
    tag: str
    attributes: dict[str, str]
    section: str
    """id of the section around the element; empty outside sections."""


class Page(HTMLParser):
    """All elements in order; `tables`: caption -> rows of cell texts, headings first; `texts`: section -> its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.texts: dict[str, str] = {}
        self.open: list[str] = []
        self.section = ""
        self.caption: str | None = None
        self.rows: list[list[str]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        attributes = {name: value or "" for name, value in attrs}
        if tag == "section":
            self.section = attributes["id"]
        self.elements.append(Element(tag, attributes, self.section))
        if tag in VOID:
            return
        self.open.append(tag)
        if tag == "table":
            self.rows, self.caption = [], None
        elif tag == "caption":
            self.caption = ""
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}, self.section))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"{tag} closes what is not open"
        if tag == "table":
            assert self.caption is not None
            assert self.caption not in self.tables, f"two tables are called {self.caption!r}"
            self.tables[self.caption] = self.rows
        elif tag == "section":
            self.section = ""

    def handle_data(self, data):
        if "script" in self.open or "style" in self.open:
            return
        self.texts[self.section] = self.texts.get(self.section, "") + data
        if "caption" in self.open:
            self.caption += data
        elif self.rows and self.rows[-1] and ("td" in self.open or "th" in self.open):
            self.rows[-1][-1] += data

    def table(self, beginning: str) -> list[list[str]]:
        """The rows of the only table whose caption begins so, without headings and with single spaces."""
        (found,) = [rows for caption, rows in self.tables.items() if caption.startswith(beginning)]
        return [[" ".join(cell.split()) for cell in row] for row in found[1:]]

    def attributes(self, name: str) -> list[str]:
        return [e.attributes[name] for e in self.elements if name in e.attributes]

    def ids(self, tag: str) -> list[str]:
        return [e.attributes.get("id", "") for e in self.elements if e.tag == tag]


def numbers(cell: str) -> list[float]:
    """Every number in a cell, in order."""
    return [float(n) for n in re.findall(r"[-+]?\d*\.?\d+", cell.replace("−", "-").replace(",", ""))]
