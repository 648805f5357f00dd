"use strict";
// A column's heading sorts its table: numbers first falling, texts first rising; cells without a value stay last.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th");
    const table = heading.closest("table");
    const column = Number(button.dataset.column);
    const value = (row) => row.cells[column].dataset.value;
    const rows = [...table.tBodies[0].rows];
    const texts = rows.some((row) => Number.isNaN(Number(value(row))));
    const before = heading.getAttribute("aria-sort");
    const falling = before === null ? !texts : before === "ascending";
    for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", falling ? "descending" : "ascending");
    rows.sort((one, two) => {
      const [a, b] = [value(one), value(two)];
      if (a === b) return 0;
      if (a === "" || b === "") return a === "" ? 1 : -1;
      const order = texts ? a.localeCompare(b) : Number(a) - Number(b);
      return falling ? -order : order;
    });
    table.tBodies[0].append(...rows);
  });
}
