// Sorting, filtering and searching the one table of the page. Without it the table still reads, in its first order.
"use strict";

const table = document.querySelector("table.models");

if (table) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const form = document.querySelector(".controls");
  const filters = [...form.querySelectorAll("[data-filter]")];
  const search = form.querySelector("[data-search]");
  const attacks = form.querySelector("[data-attacks]");
  const count = document.querySelector("[data-count]");
  const texts = rows.map((row) => `${row.textContent} ${row.dataset.title}`.toLowerCase());

  const update = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, i) => {
      const fits = filters.every((filter) => !filter.value || row.dataset[filter.dataset.filter] === filter.value);
      row.hidden = !fits || !words.every((word) => texts[i].includes(word));
      shown += row.hidden ? 0 : 1;
      for (const mark of document.querySelectorAll(`svg [data-entry="${row.dataset.entry}"]`)) {
        mark.classList.toggle("gone", row.hidden);
      }
    });
    for (const figure of document.querySelectorAll(".charts figure")) {
      figure.hidden = !figure.querySelector("g[data-entry]:not(.gone)");
    }
    count.textContent = `${shown} of ${rows.length} models`;
  };

  const valueOf = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();

  // Lines that lack the value stay last in both directions; equal ones keep their order.
  const sort = (header) => {
    const numeric = header.dataset.sort === "number";
    const before = header.getAttribute("aria-sort");
    const descending = before ? before === "ascending" : numeric;
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const sorted = [...rows].sort((one, other) => {
      const a = valueOf(one, header.cellIndex);
      const b = valueOf(other, header.cellIndex);
      if (a === "" || b === "") return (a === "") - (b === "");
      const order = numeric ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true });
      return descending ? -order : order;
    });
    body.append(...sorted);
  };

  for (const header of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    button.addEventListener("click", () => sort(header));
    header.append(button);
  }
  form.addEventListener("input", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  attacks?.addEventListener("change", () => table.classList.toggle("attacks", attacks.checked));
  form.hidden = false;
  // A browser that comes back to the page keeps what was typed and chosen.
  table.classList.toggle("attacks", attacks?.checked ?? false);
  update();
}
