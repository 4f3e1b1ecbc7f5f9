// Two sessions: A's latency over B's for every artifact of the chosen condition.
const everything = document.getElementById("everything");
let chosen = 0;

function colorOf(pair) { return token(!pair.differs ? "--dense" : pair.ratio > 1 ? "--better" : "--worse"); }

function drawComparison(pairs) {
  const place = document.getElementById("chart-compare");
  const height = pairs.length * (narrow() ? 36 : 30) + 80;
  place.style.height = `${height}px`;
  const positions = pairs.map((_, index) => index);
  const resolution = Math.max(0, ...pairs.map((pair) => pair.resolution || 0));
  const across = { type: "rect", yref: "paper", y0: 0, y1: 1, layer: "below" };
  const shapes = [
    Object.assign({}, across, { x0: 1 / (1 + resolution), x1: 1 + resolution, fillcolor: token("--grid"), line: { width: 0 } }),
    Object.assign({}, across, { type: "line", x0: 1, x1: 1, line: { color: token("--front"), width: 1 } }),
  ];
  const name = (pair) => `${pair.checkpoint}, ${engineOf(pair)}`;
  const label = (pair) => (narrow() ? `${plain(pair.checkpoint)}<br>${plain(engineOf(pair))}` : plain(name(pair)));
  const hint = (pair) => `<b>${plain(name(pair))}</b><br>A ${pair.latency_ms_a.toPrecision(4)} ms, B ${pair.latency_ms_b.toPrecision(4)} ms<br>` +
    `B ${pair.ratio.toFixed(3)}× as fast (${pair.ratio_low.toFixed(3)} to ${pair.ratio_high.toFixed(3)})`;
  plot("chart-compare", [{
    type: "scatter", mode: "markers", x: pairs.map((pair) => pair.ratio), y: positions, cliponaxis: false,
    marker: { size: 11, color: pairs.map(colorOf) }, text: pairs.map(hint), hovertemplate: "%{text}<extra></extra>",
    error_x: {
      type: "data", symmetric: false, thickness: 1.5, width: 5, color: token("--soft"),
      array: pairs.map((pair) => pair.ratio_high - pair.ratio), arrayminus: pairs.map((pair) => pair.ratio - pair.ratio_low),
    },
  }], layout(
    logAxis("B as fast as A", [1 / (1 + resolution), 1 + resolution, ...pairs.flatMap((pair) => [pair.ratio_low, pair.ratio_high])], { ticksuffix: "×" }),
    { tickvals: positions, ticktext: pairs.map(label), tickfont: { size: narrow() ? 11 : 13 }, range: [pairs.length - 0.4, -0.6], automargin: true, ticks: "outside", ticklen: 5, tickcolor: "rgba(0,0,0,0)", fixedrange: true, gridcolor: token("--grid"), zeroline: false },
    { shapes, height }));
  place.setAttribute("aria-label", "How many times as fast B is: " + pairs.map((pair) => `${name(pair)} ${pair.ratio.toFixed(2)}`).join("; "));
}

function showTable() {
  for (const row of document.querySelectorAll("#rows tbody tr")) row.hidden = !everything.checked && Number(row.dataset.row) !== chosen;
  document.getElementById("rows").classList.toggle("every", everything.checked);
}

function draw() { drawComparison(data.groups[chosen].rows); }

function show(changed) {
  chosen = chooseCondition(changed);
  document.getElementById("headline").textContent = data.groups[chosen].headline;
  showTable();
  draw();
}

onCondition(show);
everything.addEventListener("change", showTable);
redrawWith(draw);
show(DIMENSIONS[0]);
