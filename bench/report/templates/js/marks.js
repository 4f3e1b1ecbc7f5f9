// Which colour and which shape a row has in every chart, and the keys that show them and choose what is drawn.
const SHAPES = {
  circle: "M7 2.5a4.5 4.5 0 1 0 .01 0z", diamond: "M7 1.5 12.5 7 7 12.5 1.5 7z", square: "M2.8 2.8h8.4v8.4H2.8z",
  "triangle-up": "M7 2 12.5 11.5h-11z", x: "M3.6 2 7 5.4 10.4 2 12 3.6 8.6 7 12 10.4 10.4 12 7 8.6 3.6 12 2 10.4 5.4 7 2 3.6z",
  star: "M7 1.2 8.7 5.1 12.9 5.5 9.7 8.3 10.7 12.5 7 10.3 3.3 12.5 4.3 8.3 1.1 5.5 5.3 5.1z",
};

function kindOf(row) { return row.yardstick ? "yardstick" : row.method === "dense" ? "dense" : `${row.method} ${row.pattern}`; }

// who computes, and in what where that is not float32
function engineOf(row) { return row.dtype === "float32" ? row.backend : `${row.backend} ${row.dtype}`; }

function marksOf(rows) {
  // the most frequent kind gets the first colour; dense has its own
  const counts = new Map();
  for (const row of rows) counts.set(kindOf(row), (counts.get(kindOf(row)) || 0) + 1);
  const kinds = [...counts.keys()].sort((a, b) => (b === "dense") - (a === "dense") || counts.get(b) - counts.get(a) || a.localeCompare(b));
  const colored = kinds.filter((name) => name !== "dense");
  // the engine of the sparse artifacts gets the first shape
  const sparse = (backend) => rows.filter((row) => engineOf(row) === backend && row.method !== "dense").length;
  const backends = [...new Set(rows.map(engineOf))].sort((a, b) => sparse(b) - sparse(a) || a.localeCompare(b));
  const shapes = Object.keys(SHAPES);
  return {
    kinds, backends,
    color: (kind) => token(kind === "dense" ? "--dense" : `--series-${(colored.indexOf(kind) % 6) + 1}`),
    colorName: (kind) => (kind === "dense" ? "--dense" : `--series-${(colored.indexOf(kind) % 6) + 1}`),
    symbol: (backend) => shapes[backends.indexOf(backend) % shapes.length],
  };
}

function glyph(shape, color) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  for (const [name, value] of [["width", 14], ["height", 14], ["viewBox", "0 0 14 14"], ["aria-hidden", "true"]]) svg.setAttribute(name, value);
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", SHAPES[shape]);
  path.style.fill = color;
  svg.append(path);
  return svg;
}

// A key is a legend and a filter in one: check boxes, so that the keyboard reaches them
function buildKey(fieldset, names, draw, changed) {
  fieldset.hidden = names.length < 2;
  for (const name of names) {
    const label = document.createElement("label");
    const box = document.createElement("input");
    Object.assign(box, { type: "checkbox", checked: true, value: name });
    box.addEventListener("change", changed);
    label.append(box, draw(name), name);
    fieldset.append(label);
  }
}

function checkedIn(fieldset) {
  return new Set([...fieldset.querySelectorAll("input:checked")].map((box) => box.value));
}
