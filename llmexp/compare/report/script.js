"use strict";
// Sorting: a click on a column's title; a second one turns it round. Empty cells stay last.
function key(cell) {
  if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
  const text = cell.textContent.trim();
  return text === "-" || text === "" ? null : text.toLowerCase();
}
function sort(table, column) {
  const heads = [...table.tHead.rows[0].cells];
  const head = heads[column];
  const down = head.getAttribute("aria-sort") === "ascending";
  heads.forEach((one) => one.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const rows = [...table.tBodies[0].rows].map((row) => [key(row.cells[column]), row]);
  rows.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    const order = typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;
    return down ? -order : order;
  });
  table.tBodies[0].append(...rows.map(([, row]) => row));
}
// Filtering: words that a row must hold, and the arms whose chips are pressed.
function filter(study) {
  const words = study.querySelector("input[type=search]").value.toLowerCase().split(/\s+/);
  const off = new Set(
    [...study.querySelectorAll(".chip[aria-pressed=false]")].map((chip) => chip.dataset.arm)
  );
  study.querySelectorAll("tbody tr[data-arms]").forEach((row) => {
    const text = row.textContent.toLowerCase();
    const away = row.dataset.arms.split(" ").some((arm) => off.has(arm));
    row.hidden = away || !words.every((word) => text.includes(word));
  });
  study.querySelectorAll("svg .arm").forEach((group) => {
    group.style.display = [...off].some((arm) => group.classList.contains("arm-" + arm)) ? "none" : "";
  });
}
document.querySelectorAll("table.sortable").forEach((table) => {
  table.tHead.addEventListener("click", (event) => {
    const head = event.target.closest("th");
    if (head) sort(table, head.cellIndex);
  });
});
document.querySelectorAll(".study").forEach((study) => {
  study.querySelector("input[type=search]").addEventListener("input", () => filter(study));
  study.querySelectorAll(".chip").forEach((chip) => {
    chip.addEventListener("click", () => {
      chip.setAttribute("aria-pressed", chip.getAttribute("aria-pressed") !== "true");
      filter(study);
    });
  });
});
