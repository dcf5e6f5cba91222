// Tables of many rows: filtered, sorted and searched in memory, fifty rows on the page at a time.
(() => {
  const PAGE = 50;
  const MISSING = "–";

  const element = (tag, properties, ...inside) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...inside);
    return made;
  };
  const shown = (number, field) => {
    if (field.kind !== "p") return number.toFixed(field.digits).replace("-", "−");
    return number < 0.001 ? "<\u00a0.001" : number.toFixed(3).replace(/^0/, "");
  };

  // A column as functions of the row: its text, what it is ordered by, and the address of a link.
  const reader = (column, field) => {
    if (column.numbers) {
      const { numbers } = column;
      return { text: (row) => numbers[row] === null ? MISSING : shown(numbers[row], field), order: (row) => numbers[row] };
    }
    if (column.links) {
      const { links } = column;
      const text = (row) => links[row] ? links[row][0] : MISSING;
      return { text, order: (row) => links[row] ? links[row][0] : null, address: (row) => links[row] && links[row][1] };
    }
    const { texts, codes } = column;
    const text = (row) => codes[row] < 0 ? MISSING : texts[codes[row]];
    return { text, order: (row) => codes[row] < 0 ? null : texts[codes[row]] };
  };

  const explore = (box) => {
    const { fields, columns, rows } = JSON.parse(box.querySelector("script[type='application/json']").textContent);
    const readers = columns.map((column, place) => reader(column, fields[place]));
    const numeric = (field) => field.kind === "number" || field.kind === "p";
    const table = box.querySelector("table");
    const body = table.tBodies[0];
    const headings = Array.from(table.tHead.rows[0].cells);
    const lines = Array.from({ length: rows }, (_, row) =>
      readers.map((read, place) => numeric(fields[place]) ? "" : read.text(row)).join(" ").toLowerCase());
    const chosen = new Map();
    let found = Array.from({ length: rows }, (_, row) => row);
    let sorted = null;
    let first = 0;

    const status = element("p", { className: "status" });
    status.setAttribute("role", "status");
    const turn = (by) => {
      first += by * PAGE;
      draw();
    };
    const back = element("button", { type: "button", textContent: "Previous 50", onclick: () => turn(-1) });
    const next = element("button", { type: "button", textContent: "Next 50", onclick: () => turn(1) });

    const cell = (place, row) => {
      const read = readers[place];
      const made = document.createElement(place ? "td" : "th");
      if (!place) made.scope = "row";
      made.className = `${numeric(fields[place]) ? "number" : columns[place].long ? "long" : ""} ${fields[place].shown ? "" : "wide"}`;
      const address = read.address && read.address(row);
      if (address) {
        made.append(element("a", { href: address, rel: "noreferrer noopener", textContent: read.text(row) }));
      } else made.textContent = read.text(row);
      return made;
    };
    const draw = () => {
      const page = found.slice(first, first + PAGE);
      body.replaceChildren(...page.map((row) => element("tr", {}, ...fields.map((_, place) => cell(place, row)))));
      const range = page.length ? `, ${first + 1} to ${first + page.length} shown` : "";
      status.textContent = `${found.length.toLocaleString("en")} of ${rows.toLocaleString("en")} rows${range}`;
      back.disabled = first === 0;
      next.disabled = first + PAGE >= found.length;
    };
    const compare = (read, byNumber) => (a, b) => {
      const [x, y] = [read.order(a), read.order(b)];
      // Undefined values come last in both directions.
      if (x === null || y === null) return (x === null) - (y === null);
      const order = byNumber ? x - y : x.localeCompare(y, "en", { numeric: true });
      return sorted.descending ? -order : order;
    };
    const update = () => {
      const asked = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      found = [];
      for (let row = 0; row < rows; row++) {
        if (asked.every((word) => lines[row].includes(word)) &&
            Array.from(chosen).every(([place, text]) => readers[place].text(row) === text)) found.push(row);
      }
      if (sorted) found.sort(compare(readers[sorted.place], numeric(fields[sorted.place])));
      first = 0;
      draw();
    };

    const search = element("input", { type: "search", oninput: update });
    const controls = box.querySelector(".controls");
    controls.append(element("label", {}, "Search ", search));
    const selects = fields.map((field, place) => {
      if (field.kind !== "choice" || columns[place].texts.length < 2) return null;
      const counts = new Map();
      for (let row = 0; row < rows; row++) counts.set(readers[place].text(row), (counts.get(readers[place].text(row)) || 0) + 1);
      const names = Array.from(counts.keys()).sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
      const select = element("select", {}, element("option", { value: "", textContent: "all" }));
      for (const name of names) {
        select.append(element("option", { value: name, textContent: `${name} (${counts.get(name).toLocaleString("en")})` }));
      }
      select.onchange = () => {
        if (select.value) chosen.set(place, select.value); else chosen.delete(place);
        update();
      };
      controls.append(element("label", {}, `${field.heading} `, select));
      return select;
    }).filter(Boolean);
    const reset = () => {
      search.value = "";
      for (const select of selects) select.value = "";
      chosen.clear();
      sorted = null;
      for (const heading of headings) heading.removeAttribute("aria-sort");
      update();
    };
    controls.append(element("button", { type: "button", textContent: "Show all", onclick: reset }));
    controls.hidden = false;

    headings.forEach((heading, place) => {
      const button = element("button", { type: "button" }, ...heading.childNodes);
      heading.append(button);
      button.onclick = () => {
        sorted = { place, descending: heading.getAttribute("aria-sort") === "ascending" };
        for (const other of headings) other.removeAttribute("aria-sort");
        heading.setAttribute("aria-sort", sorted.descending ? "descending" : "ascending");
        update();
      };
    });
    box.querySelector(".without-script").replaceWith(element("div", { className: "pager" }, status, back, next));
    draw();
  };
  document.querySelectorAll(".explorer").forEach(explore);
})();
