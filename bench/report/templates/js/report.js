// The page: what is chosen, what is therefore shown, and when it is drawn again.
const marks = marksOf(data.groups.flatMap((group) => group.rows));
const everything = document.getElementById("everything");
const kindKey = document.getElementById("key-kinds"), backendKey = document.getElementById("key-backends");
let chosen = 0;

function visibleRows() {
  const kinds = checkedIn(kindKey), backends = checkedIn(backendKey);
  return data.groups[chosen].rows.filter((row) => kinds.has(kindOf(row)) && backends.has(engineOf(row)));
}

function draw() {
  const group = data.groups[chosen], rows = visibleRows();
  drawPareto(group, rows, marks);
  drawSpeedup(group, rows, marks);
  drawLayers(group, rows);
}

function showTable() {
  const kinds = checkedIn(kindKey), backends = checkedIn(backendKey);
  for (const line of document.querySelectorAll("#rows tbody tr")) {
    const row = data.groups[line.dataset.row].rows[line.dataset.index];
    line.hidden = (!everything.checked && Number(line.dataset.row) !== chosen) || !kinds.has(kindOf(row)) || !backends.has(engineOf(row));
  }
  const batch = String(data.groups[chosen].rows[0].batch_size);
  for (const part of document.querySelectorAll("[data-batch]")) part.hidden = !everything.checked && !part.dataset.batch.split(" ").includes(batch);
  document.getElementById("rows").classList.toggle("every", everything.checked);
}

function show(changed) {
  chosen = chooseCondition(changed);
  document.getElementById("headline").textContent = data.groups[chosen].headline;
  for (const part of document.querySelectorAll("[data-condition]")) part.hidden = Number(part.dataset.condition) !== chosen;
  showTable();
  draw();
}

function narrowed() { showTable(); draw(); }

const swatch = marks.symbol(marks.backends[0]);
buildKey(kindKey, marks.kinds, (kind) => glyph(swatch, `var(${marks.colorName(kind)})`), narrowed);
buildKey(backendKey, marks.backends, (backend) => glyph(marks.symbol(backend), "var(--soft)"), narrowed);
onCondition(show);
for (const input of document.querySelectorAll("#layer-artifact, input[name=grain]")) input.addEventListener("change", draw);
const topic = document.getElementById("topic");
function showTopic() { document.getElementById("rows").dataset.topic = topic.value; }
topic.addEventListener("change", showTopic);
everything.addEventListener("change", showTable);
showTopic();
redrawWith(draw);
show(DIMENSIONS[0]);
