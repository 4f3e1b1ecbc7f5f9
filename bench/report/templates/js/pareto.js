// Accuracy against latency, with the front that no other artifact beats on both.
function hover(row) {
  const speedup = row.base ? "the base of the speed-ups" : row.speedup_vs_dense === null ? "no dense artifact to compare with"
    : `${row.speedup_vs_dense.toFixed(2)}× as fast as dense (${row.speedup_low.toFixed(2)} to ${row.speedup_high.toFixed(2)})`;
  const accuracy = row.accuracy === null ? "not measured" : row.accuracy.toFixed(4);
  return `<b>${plain(row.checkpoint)}</b> with ${plain(engineOf(row))}<br>accuracy ${accuracy}<br>` +
    `p50 ${row.latency_ms_p50.toPrecision(4)} ms<br>${speedup}`;
}

function bySeries(rows) {
  const series = new Map();
  for (const row of rows) {
    const name = `${kindOf(row)}, ${engineOf(row)}`;
    series.set(name, [...(series.get(name) || []), row]);
  }
  // long series first: a single artifact must not lie hidden under one of them
  return [...series].sort((a, b) => b[1].length - a[1].length);
}

// The front's points are named where their names do not run into each other
function frontLabels(front, spanX, spanY) {
  const placed = [];
  const labels = [];
  for (const row of front) {
    const at = [Math.log(row.latency_ms_p50) / spanX, row.accuracy / spanY];
    if (placed.some((other) => Math.abs(other[0] - at[0]) < (narrow() ? 0.16 : 0.09) && Math.abs(other[1] - at[1]) < 0.1)) continue;
    placed.push(at);
    const name = row.method === "dense" ? "dense" : row.pattern === "unstructured" ? short(row.sparsity) : row.pattern;
    labels.push({
      x: Math.log10(row.latency_ms_p50), y: row.accuracy, text: plain(name), showarrow: false, yshift: 15,
      font: { color: token("--ink"), size: 12 },
    });
  }
  return labels;
}

function drawPareto(group, rows, marks) {
  const known = rows.filter((row) => row.accuracy !== null);
  document.getElementById("no-accuracy").hidden = known.length > 0;
  document.getElementById("chart-pareto").hidden = known.length === 0;
  if (!known.length) return;
  const front = known.filter((row) => row.pareto).sort((a, b) => a.latency_ms_p50 - b.latency_ms_p50);
  const latencies = known.map((row) => row.latency_ms_p50), accuracies = known.map((row) => row.accuracy);
  const spanX = Math.log(Math.max(...latencies) / Math.min(...latencies)) || 1;
  const spanY = Math.max(...accuracies) - Math.min(...accuracies) || 1;
  const line = {
    type: "scatter", mode: "lines", name: "Pareto front", hoverinfo: "skip", cliponaxis: false,
    line: { shape: "hv", width: 1.5, color: token("--front") },
    x: front.map((row) => row.latency_ms_p50), y: front.map((row) => row.accuracy),
  };
  const points = bySeries(known).map(([name, series]) => ({
    type: "scatter", mode: "markers", name: plain(name), text: series.map(hover), hovertemplate: "%{text}<extra></extra>", cliponaxis: false,
    marker: { size: 11, color: marks.color(kindOf(series[0])), symbol: marks.symbol(engineOf(series[0])), line: { width: 1, color: token("--paper") } },
    x: series.map((row) => row.latency_ms_p50), y: series.map((row) => row.accuracy),
  }));
  plot("chart-pareto", [line, ...points], layout(
    logAxis(`Latency of a batch of ${group.rows[0].batch_size}, median, ms`, latencies),
    axis("Accuracy, top-1", { tickformat: ".3~f", nticks: 7, range: [Math.min(...accuracies) - 0.08 * spanY, Math.max(...accuracies) + 0.15 * spanY] }),
    { annotations: frontLabels(front, spanX, spanY) }));
  document.getElementById("chart-pareto").setAttribute("aria-label",
    `Accuracy against latency of ${known.length} artifacts. On the Pareto front, fastest first: ` +
    front.map((row) => `${row.checkpoint} with ${engineOf(row)}, ${row.latency_ms_p50.toPrecision(3)} ms, accuracy ${row.accuracy.toFixed(4)}`).join("; "));
}
