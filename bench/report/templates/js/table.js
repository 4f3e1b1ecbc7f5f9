// Sorting a table by the column whose heading is pressed.
function compareValues(a, b) {
  return Number.isNaN(Number(a)) || Number.isNaN(Number(b)) ? a.localeCompare(b) : Number(a) - Number(b);
}

function sortBy(header) {
  const column = header.cellIndex;
  const upward = header.getAttribute("aria-sort") !== "ascending";
  for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", upward ? "ascending" : "descending");
  const body = header.closest("table").tBodies[0];
  const value = (row) => row.cells[column].dataset.value;
  body.append(...[...body.rows].sort((a, b) => {
    const [left, right] = [value(a), value(b)];
    // an unknown value is no number, and goes last whatever the direction
    if (left === "" || right === "") return (left === "") - (right === "");
    return (upward ? 1 : -1) * compareValues(left, right);
  }));
}

for (const header of document.querySelectorAll("table.sortable th[scope=col]")) header.addEventListener("click", () => sortBy(header));
