"use strict";
// Sorts a table by the column whose heading is pressed. Numbers are in data-n of a cell; what has none comes last.
function sortBy(table, place, heading) {
  const up = heading.getAttribute("aria-sort") !== "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", up ? "ascending" : "descending");
  const collator = new Intl.Collator(undefined, { numeric: true });
  const body = table.tBodies[0];
  body.remove(); // moving rows that are shown takes seconds if there are ten thousand
  const keyed = Array.from(body.rows, (row) => {
    const cell = row.cells[place];
    return { row, number: cell.dataset.n === undefined ? null : Number(cell.dataset.n), text: cell.textContent };
  });
  const rank = (key) => (key.number !== null ? 0 : key.text !== "-" && key.text !== "" ? 1 : 2);
  keyed.sort((a, b) => {
    const [first, second] = [rank(a), rank(b)];
    if (first !== second) return first - second;
    if (first === 2) return 0;
    const order = first === 0 ? a.number - b.number : collator.compare(a.text, b.text);
    return up ? order : -order;
  });
  body.append(...keyed.map((key) => key.row));
  table.append(body);
}
for (const table of document.querySelectorAll("table.sortable")) {
  Array.from(table.tHead.rows[0].cells).forEach((heading, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => sortBy(table, place, heading));
  });
}
// All that is folded is printed.
let closed = [];
addEventListener("beforeprint", () => {
  closed = Array.from(document.querySelectorAll("details:not([open])"));
  for (const each of closed) each.open = true;
});
addEventListener("afterprint", () => {
  for (const each of closed) each.open = false;
});
