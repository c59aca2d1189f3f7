// Sorting, filtering and searching the tables of the page, and opening the seeds of a recipe. Without it the tables still
// read, in their first order and with every seed.
"use strict";

const tables = [...document.querySelectorAll("table.models")];

if (tables.length) {
  const form = document.querySelector(".controls");
  const filters = [...form.querySelectorAll("[data-filter]")];
  const search = form.querySelector("[data-search]");
  const attacks = form.querySelector("[data-attacks]");
  const count = document.querySelector("[data-count]");
  const models = document.querySelectorAll("[data-model]").length;
  const bodies = tables.flatMap((table) => [...table.tBodies]);
  const texts = new Map();
  for (const body of bodies) {
    const titles = [...body.rows].map((row) => row.dataset.title ?? "");
    texts.set(body, `${body.textContent} ${titles.join(" ")}`.toLowerCase());
  }

  const fits = (filter, board, row) => {
    const key = filter.dataset.filter;
    return !filter.value || (key in board.dataset ? board : row).dataset[key] === filter.value;
  };

  const update = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const body of bodies) {
      const board = body.closest(".board");
      const rows = [...body.querySelectorAll("[data-model]")];
      const found = rows.filter((row) => filters.every((filter) => fits(filter, board, row)));
      body.hidden = !found.length || !words.every((word) => texts.get(body).includes(word));
      shown += body.hidden ? 0 : found.length;
      for (const mark of document.querySelectorAll(`[data-line="${body.id}"]`)) {
        mark.classList.toggle("gone", body.hidden);
      }
    }
    for (const board of document.querySelectorAll(".board")) {
      board.hidden = [...board.querySelectorAll(".models tbody")].every((body) => body.hidden);
      for (const figure of board.querySelectorAll("figure")) {
        figure.hidden = !figure.querySelector("g.point[data-line]:not(.gone)");
      }
    }
    count.textContent = `${shown} of ${models} models`;
  };

  const valueOf = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();

  // Lines that lack the value stay last in both directions; equal ones keep their order.
  const sort = (table, header, lines) => {
    const numeric = header.dataset.sort === "number";
    const before = header.getAttribute("aria-sort");
    const first = numeric && header.cellIndex > 0; // the best rank is the lowest
    const descending = before ? before === "ascending" : first;
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const sorted = [...lines].sort((one, other) => {
      const a = valueOf(one.rows[0], header.cellIndex);
      const b = valueOf(other.rows[0], header.cellIndex);
      if (a === "" || b === "") return (a === "") - (b === "");
      const order = numeric ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true });
      return descending ? -order : order;
    });
    table.append(...sorted);
  };

  const button = (place) => {
    const made = document.createElement("button");
    made.type = "button";
    made.append(...place.childNodes);
    place.append(made);
    return made;
  };

  for (const table of tables) {
    const lines = [...table.tBodies];
    for (const header of table.tHead.rows[0].cells) {
      button(header).addEventListener("click", () => sort(table, header, lines));
    }
    for (const body of lines) {
      const name = body.querySelector(".several .name");
      if (!name) continue;
      const opener = button(name);
      const open = (is) => {
        opener.setAttribute("aria-expanded", is);
        for (const row of body.querySelectorAll(".seed")) row.hidden = !is;
      };
      opener.addEventListener("click", () => open(opener.getAttribute("aria-expanded") !== "true"));
      open(false);
    }
  }

  const cues = () => {
    for (const scroll of document.querySelectorAll(".board .scroll")) {
      scroll.previousElementSibling.hidden = scroll.scrollWidth <= scroll.clientWidth;
    }
  };

  const columns = () => {
    for (const table of tables) table.classList.toggle("attacks", attacks?.checked ?? false);
    cues();
  };

  form.addEventListener("input", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  attacks?.addEventListener("change", columns);
  window.addEventListener("resize", cues);
  form.hidden = false;
  // A browser that comes back to the page keeps what was typed and chosen.
  columns();
  update();
}
