"use strict";
(() => {
  const table = document.getElementById("table");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const words = document.getElementById("words");
  const finding = document.getElementById("finding");
  const shown = document.getElementById("shown");

  const value = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.sort ?? cell.textContent.trim();
    const number = Number(text);
    return text === "" || Number.isNaN(number) ? text : number;
  };

  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number"
      ? a - b
      : String(a).localeCompare(String(b), "en", { numeric: true });

  const sortBy = (head, column) => {
    const falling = head.getAttribute("aria-sort")
      ? head.getAttribute("aria-sort") === "ascending"
      : head.classList.contains("n");
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", falling ? "descending" : "ascending");
    // Rows without a value stay at the end whichever way the rest is sorted.
    const keyed = rows.map((row) => [value(row, column), row]);
    keyed.sort(([a], [b]) => (a === "") - (b === "") || (falling ? compare(b, a) : compare(a, b)));
    body.append(...keyed.map(([, row]) => row));
  };

  [...table.tHead.rows[0].cells].forEach((head, column) => {
    if ("fixed" in head.dataset) return;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    button.addEventListener("click", () => sortBy(head, column));
    head.replaceChildren(button);
  });

  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  const filter = () => {
    const wanted = words.value.trim().toLowerCase();
    let left = 0;
    for (const row of rows) {
      const fits = texts.get(row).includes(wanted) && (!finding.value || row.dataset.finding === finding.value);
      row.hidden = !fits;
      left += fits;
    }
    shown.textContent = `${left} of ${rows.length} rows`;
  };
  words.addEventListener("input", filter);
  finding.addEventListener("change", filter);
  words.form.addEventListener("submit", (event) => event.preventDefault());
  words.form.hidden = false;
  filter();

  document.addEventListener("keydown", (event) => {
    const open = document.querySelector(".sheet:target .backdrop");
    if (event.key === "Escape" && open) open.click();
  });
})();
