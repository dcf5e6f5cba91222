"use strict";
// The page is complete without this script, which adds the theme switch, opens the section that a link leads to, and adds
// the buttons that sort tables.
(() => {
  const root = document.documentElement;
  const dark = () => root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;

  const toggle = document.getElementById("theme");
  const show = () => toggle.setAttribute("aria-pressed", String(dark()));
  toggle.hidden = false;
  toggle.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    show();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  show();

  const parts = Array.from(document.querySelectorAll("details.part"));
  const openTarget = () => {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    const part = target && (target.closest("details.part") || target.querySelector("details.part"));
    if (part) part.open = true;
    if (target) target.scrollIntoView();
  };
  addEventListener("hashchange", openTarget);
  // A link to where one is already changes no hash.
  for (const link of document.querySelectorAll("a[href^='#']")) link.addEventListener("click", () => setTimeout(openTarget));
  openTarget();
  const every = document.getElementById("every");
  if (every) {
    const name = () => { every.textContent = parts.every((part) => part.open) ? "Close all" : "Open all"; };
    every.hidden = !parts.length;
    every.addEventListener("click", () => {
      const open = !parts.every((part) => part.open);
      for (const part of parts) part.open = open;
    });
    for (const part of parts) part.addEventListener("toggle", name);
    name();
  }

  // Undefined values come last in both directions.
  const compare = (a, b, numeric) => {
    if (!numeric) return a.text.localeCompare(b.text, "en", { numeric: true });
    return a.order - b.order;
  };
  const sort = (table, column, heading, numeric) => {
    const descending = heading.getAttribute("aria-sort") === "ascending";
    const body = table.tBodies[0];
    const rows = Array.from(body.rows, (row) => {
      const cell = row.cells[column];
      return { row, text: cell.textContent.trim(), order: parseFloat(cell.dataset.order) };
    });
    const missing = (entry) => numeric ? Number.isNaN(entry.order) : entry.text === "–";
    const known = rows.filter((entry) => !missing(entry));
    known.sort((a, b) => compare(a, b, numeric) * (descending ? -1 : 1));
    body.append(...[...known, ...rows.filter(missing)].map((entry) => entry.row));
    for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    Array.from(table.tHead.rows[0].cells).forEach((heading, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => sort(table, column, heading, heading.classList.contains("number")));
    });
  }

  // Nothing can be opened on paper, so everything is opened before printing.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = Array.from(document.querySelectorAll("details:not([open])"));
    for (const each of opened) each.open = true;
  });
  addEventListener("afterprint", () => {
    for (const each of opened) each.open = false;
  });
})();
