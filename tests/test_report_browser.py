"""The report in a browser and in both themes: it fits, opens, filters, shows values, and loads nothing."""

import re
from importlib.resources import files
from pathlib import Path

import pytest
from browser import CHROMIUM, DRIVER, Browser, chromium
from pages import Page, numbers
from report_items import write_items_of, write_screened
from report_run import write_run

from interp.views.figures.style import QUANTITIES, SERIES
from interp.views.report.collect import collect
from interp.views.report.render import render
from interp.views.report.svg import COLOURS


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """The page of a whole run with 5,000 wordings and 1,000 features to explore."""
    run = tmp_path_factory.mktemp("run")
    write_run(run)
    write_items_of(run, 5000, 5000)
    write_screened(run, 1000)
    return render(collect(run))


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def contrast(a: str, b: str) -> float:
    """WCAG 2.2 contrast ratio of two colours #rrggbb."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [1, 2])
def test_contrast_is_aa_in_both_themes(theme):
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    style = (files("interp.views.report") / "style.css").read_text()
    pairs = re.findall(r"--(\w+): light-dark\((#\w{6}), (#\w{6})\)", style)
    colours = {found[0]: found[theme] for found in pairs}
    for back in ("paper", "raised", "tint", "warn"):
        for text in ("ink", "soft"):
            assert contrast(colours[text], colours[back]) >= 4.5, (text, back)
    assert contrast(colours["accent"], colours["paper"]) >= 4.5
    for mark in ("muted", "orange", "green", "purple", "sky", "gold"):
        assert contrast(colours[mark], colours["paper"]) >= 3, mark


def test_the_colours_of_the_figures_stand_out_on_paper_and_have_their_theme():
    known = {*QUANTITIES.values(), *(series["color"] for series in SERIES)}
    assert all(contrast(colour, "#ffffff") >= 3 for colour in known)
    assert known <= set(COLOURS), "a colour without a theme would stay dark in the dark"


@pytest.fixture(scope="module")
def browser():
    if not (CHROMIUM and DRIVER):
        pytest.skip("no chromium and chromedriver here (apt-get install chromium chromium-driver)")
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def opened(html, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html)
    return path


OPEN = "for (const each of document.querySelectorAll('details')) each.open = true"
"""Opens every section."""


def focused(browser: Browser) -> str:
    return browser.run("return document.activeElement.textContent.trim()")


def test_a_browser_loads_it_alone_without_complaint(browser, opened):
    browser.log("browser"), browser.requested()
    browser.open(opened)
    assert browser.log("browser") == []
    assert browser.requested() == [opened.as_uri()]
    # The policy holds: what a page without it would run and load, is neither run nor loaded.
    browser.run(
        "const s = document.createElement('script'); s.textContent = 'pwned = 1'; document.body.append(s);"
        "const i = new Image(); i.src = 'https://example.org/x.png'; document.body.append(i);"
    )
    assert browser.run("return typeof pwned") == "undefined"
    assert all("Content Security Policy" in entry["message"] for entry in browser.log("browser"))


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_the_page_is_no_wider_than_the_window(browser, opened, width):
    browser.open(opened, width=width)
    assert browser.run("return document.documentElement.scrollWidth") <= width
    browser.run(OPEN)
    assert browser.run("return document.documentElement.scrollWidth") <= width
    widths = "return [...document.querySelectorAll('{}')].map(e => e.getBoundingClientRect().width)"
    assert max(browser.run(widths.format(".drawing"))) <= width
    assert min(w for w in browser.run(widths.format("svg")) if w) > 200
    if width < 640:
        # Charts across the page keep their size on a telephone, as their text would be too small, and scroll sideways.
        assert set(browser.run(widths.format(".inside > .chart svg"))) == {768}
    else:
        assert max(browser.run(widths.format("svg"))) <= width


def test_the_keyboard_reaches_skip_link_toggle_and_sorting(browser, opened):
    browser.open(opened)
    browser.press("Tab")
    assert focused(browser) == "Skip to the report"
    assert browser.run("return document.activeElement.getBoundingClientRect().top") >= 0
    outline = "return getComputedStyle(document.activeElement).outlineStyle"
    assert browser.run(outline) != "none"
    browser.press("Tab")
    assert focused(browser) == "Open all"
    browser.press("Enter")
    assert browser.run("return document.querySelectorAll('.part:not([open])').length") == 0
    assert focused(browser) == "Close all"
    browser.press("Tab")
    assert focused(browser) == "Dark theme"
    browser.run("document.querySelector('#profile h2').closest('summary').focus()")
    for _ in range(40):
        browser.press("Tab")
        if focused(browser) == "answer patch":
            break
    assert focused(browser) == "answer patch"
    column = (
        "const t = document.activeElement.closest('table'); const h = document.activeElement.closest('th');"
        "return [h.ariaSort, [...t.tBodies[0].rows].map(r => r.cells[h.cellIndex].textContent.trim())]"
    )
    _, before = browser.run(column)
    browser.press("Enter")
    order, ascending = browser.run(column)
    assert order == "ascending"
    # Rows that look alike when rounded may stand in either order.
    assert [numbers(cell)[0] for cell in ascending] == sorted(numbers(cell)[0] for cell in before)
    assert sorted(ascending) == sorted(before)
    assert ascending != before
    browser.press("Enter")
    order, descending = browser.run(column)
    assert order == "descending"
    assert descending == ascending[::-1]
    assert browser.run("return document.querySelectorAll('th[aria-sort]').length") == 1


def test_both_themes_follow_the_system_and_the_toggle(browser, opened):
    colours = (
        "const of = (s, p) => getComputedStyle(document.querySelector(s))[p];"
        "return [of('body', 'backgroundColor'), of('body', 'color'), of('#profile svg text', 'fill'),"
        "document.getElementById('theme').ariaPressed]"
    )
    light, dark = ["rgb(255, 255, 255)", "rgb(26, 26, 26)"], ["rgb(21, 24, 28)", "rgb(233, 235, 238)"]
    browser.open(opened)
    assert browser.run(colours) == [*light, light[1], "false"]
    browser.press("Tab", "Tab", "Tab", "Space")
    assert browser.run(colours) == [*dark, dark[1], "true"]
    browser.open(opened, dark=True)
    assert browser.run(colours) == [*dark, dark[1], "true"]
    browser.press("Tab", "Tab", "Tab", "Enter")
    assert browser.run(colours) == [*light, light[1], "false"]


def test_without_script_all_of_it_is_there(browser, opened, page):
    browser.open(opened, script=False)
    counted = {tag: sum(e.tag == tag for e in page.elements) for tag in ("table", "svg", "section", "details")}
    for tag, count in counted.items():
        nodes = browser.devtools("DOM.getDocument", depth=0)["root"]["nodeId"]
        found = browser.devtools("DOM.querySelectorAll", nodeId=nodes, selector=tag)["nodeIds"]
        assert len(found) == count
    without = re.sub(r"<script.*?</script>", "", opened.read_text(), flags=re.DOTALL)
    assert "<button" not in re.sub(r"<button id=\"(theme|every)\"[^>]* hidden>", "", without)


def test_it_prints_in_the_light_without_its_controls(browser, opened, tmp_path):
    browser.open(opened, dark=True)
    browser.devtools("Emulation.setEmulatedMedia", media="print")
    shown = (
        "const of = (s, p) => getComputedStyle(document.querySelector(s))[p];"
        "return [of('#theme', 'display'), of('nav', 'display'), of('thead button', 'display'), of('body', 'color')]"
    )
    assert browser.run(shown) == ["none", "none", "contents", "rgb(26, 26, 26)"]
    browser.pdf(tmp_path / "report.pdf")
    pages = (tmp_path / "report.pdf").read_bytes().count(b"/Type /Page\n")
    assert 4 <= pages <= 25


def test_at_first_it_is_two_screens_high(browser, opened):
    browser.open(opened, width=1280, height=900)
    assert browser.run("return document.documentElement.scrollHeight") <= 2 * 900
    assert browser.run("return document.querySelectorAll('.part').length") == 11
    assert browser.run("return document.querySelectorAll('.part[open]').length") == 0


def test_a_link_opens_the_section_that_it_leads_to(browser, opened):
    browser.open(opened)
    browser.run("document.querySelector(\"nav a[href='#quadrants']\").click()")
    found = browser.run(
        "return new Promise(done => setTimeout(() => done([...document.querySelectorAll('.part[open]')]"
        ".map(part => part.parentElement.id)), 50))"
    )
    assert found == ["quadrants"]


def test_wide_tables_fit_until_all_columns_are_asked_for(browser, opened):
    browser.open(opened, width=1280)
    browser.run(OPEN)
    over = "return [...document.querySelectorAll('.scroll')].filter(s => s.scrollWidth > s.clientWidth + 1).length"
    assert browser.run(over) == 0
    heads = (
        "const t = document.querySelector('#profile .table:last-of-type');"
        "return [...t.querySelectorAll('thead th')].filter(h => h.offsetWidth).length"
    )
    few = browser.run(heads)
    browser.run("document.querySelector('#profile .table:last-of-type .every input').click()")
    assert browser.run(heads) == 17 > few


def test_many_rows_are_filtered_sorted_and_searched_at_once(browser, opened):
    browser.open(opened)
    browser.run(OPEN)
    box = "const box = document.getElementById('{}'); const status = () => box.querySelector('.status').textContent;"
    items = box.format("items-0")
    assert browser.run(items + "return status()") == "5,000 of 5,000 rows, 1 to 50 shown"
    choose = (
        "const s = [...box.querySelectorAll('select')].find(s => s.parentElement.textContent.startsWith('flips'));"
        "const began = performance.now(); s.value = 'yes'; s.dispatchEvent(new Event('change'));"
        "return [status(), performance.now() - began]"
    )
    said, took = browser.run(items + choose)
    assert said == "625 of 5,000 rows, 1 to 50 shown"
    assert took < 1000
    search = (
        "const i = box.querySelector('input[type=search]'); const began = performance.now(); i.value = 'EFFUSION view';"
        "i.dispatchEvent(new Event('input')); return [status(), performance.now() - began]"
    )
    said, took = browser.run(items + search)
    # Of the pairs i with i % 8 == 3, those with i % 3 == 0 name effusion, and all are of odd number, so of type view.
    expected = sum(i % 8 == 3 and i % 3 == 0 for i in range(5000))
    assert said == f"{expected} of 5,000 rows, 1 to 50 shown"
    assert took < 1000
    ordered = (
        "const began = performance.now(); const h = [...box.querySelectorAll('thead th')]"
        ".find(h => h.textContent === 'flip AUC'); const by = h.querySelector('button'); by.click(); by.click();"
        "const shown = [...box.querySelectorAll('tbody tr')].map(r => r.cells[h.cellIndex].textContent);"
        "return [h.ariaSort, shown, performance.now() - began]"
    )
    order, shown, took = browser.run(box.format("features-screened") + ordered)
    assert order == "descending"
    assert len(shown) == 50
    assert shown == sorted(shown, reverse=True)
    assert float(shown[0]) > 0.99
    assert took < 1000
    turned = browser.run(
        box.format("features-screened") + "[...box.querySelectorAll('.pager button')][1].click(); return status()"
    )
    assert turned == "1,000 of 1,000 rows, 51 to 100 shown"


def test_pointing_at_a_chart_and_the_arrow_keys_show_its_values(browser, opened):
    browser.open(opened)
    browser.run(OPEN)
    # A smooth scroll would still run while the place of a value is measured.
    browser.run("document.documentElement.style.scrollBehavior = 'auto'")
    tip = "const t = document.querySelector('#profile .tip'); return t.hidden ? '' : t.textContent"
    assert browser.run(tip) == ""
    assert browser.run("return document.querySelectorAll('circle.mark title').length") == 0
    browser.run("document.querySelector('#profile .drawing').focus()")
    browser.press("ArrowRight")
    first = browser.run(tip)
    assert re.fullmatch(r"flip AUC of the chosen features, held out, layer 0: [−\d.]+ \[.*\]", first)
    browser.press("ArrowRight")
    assert "layer 1:" in browser.run(tip)
    browser.press("Escape")
    assert browser.run(tip) == ""
    where = browser.run(
        "const d = document.querySelector('#profile .drawing'); d.scrollIntoView();"
        "const b = d.querySelector('circle.mark').getBoundingClientRect();"
        "return [b.x + b.width / 2, b.y + b.height / 2]"
    )
    move = {"type": "pointerMove", "x": round(where[0]), "y": round(where[1]) + 2}
    pointer = {"type": "pointer", "id": "mouse", "actions": [move], "parameters": {"pointerType": "mouse"}}
    browser.command("POST", "/actions", {"actions": [pointer]})
    assert browser.run(tip) == first
