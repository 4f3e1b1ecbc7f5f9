// Speed-up against sparsity, beside what the removed operations promise and what this machine's roofline allows.
function limitOf(row) {
  return data.limits.find((limit) => limit.artifact === row.artifact && limit.batch_size === row.batch_size && limit.threads === row.threads);
}

function reference(rows, field, name, dash, color) {
  const values = new Map();
  for (const row of rows) {
    const limit = limitOf(row);
    if (limit && limit[field] !== null) values.set(row.sparsity, limit[field]);
  }
  const xs = [...values.keys()].sort((a, b) => a - b);
  if (!xs.length) return [];
  return [{
    type: "scatter", mode: xs.length > 1 ? "lines" : "markers", name, cliponaxis: false, line: { color, width: 1.6, dash },
    marker: { symbol: "line-ew-open", size: 16, color, line: { width: 2, color } },
    x: xs.map((sparsity) => 1 - sparsity), y: xs.map((sparsity) => values.get(sparsity)),
    hovertemplate: `${plain(kindOf(rows[0]))}: ${name} %{y:.1f}×<extra></extra>`,
  }];
}

function measuredSpeedup([name, unsorted], marks) {
  const rows = [...unsorted].sort((a, b) => a.sparsity - b.sparsity);
  const values = rows.map((row) => row.speedup_vs_dense);
  const color = marks.color(kindOf(rows[0]));
  return {
    type: "scatter", mode: "lines+markers", name: plain(name), text: rows.map(hover), hovertemplate: "%{text}<extra></extra>", cliponaxis: false,
    line: { color, width: 2 }, marker: { size: 10, symbol: marks.symbol(engineOf(rows[0])), color },
    x: rows.map((row) => 1 - row.sparsity), y: values,
    error_y: {
      type: "data", symmetric: false, thickness: 1, width: 4, array: rows.map((row, index) => row.speedup_high - values[index]),
      arrayminus: rows.map((row, index) => values[index] - row.speedup_low),
    },
  };
}

function drawSpeedup(group, rows, marks) {
  const known = rows.filter((row) => row.speedup_vs_dense !== null && row.method !== "dense" && !row.yardstick);
  document.getElementById("no-speedup").hidden = known.length > 0;
  document.getElementById("chart-speedup").hidden = known.length === 0;
  if (!known.length) return;
  const traces = bySeries(known).map((series) => measuredSpeedup(series, marks));
  for (const kind of marks.kinds) {
    const same = known.filter((row) => kindOf(row) === kind);
    if (!same.length) continue;
    traces.push(...reference(same, "flop_ratio", "dense over non-zero MACs", "dot", marks.color(kind)));
    traces.push(...reference(same, "roofline_speedup", "roofline", "dash", marks.color(kind)));
  }
  const roofline = known.some((row) => (limitOf(row) || {}).roofline_speedup);
  document.getElementById("key-roofline").hidden = !roofline;
  document.getElementById("no-roofline").hidden = roofline;
  const resolution = group.resolution || 0;
  const across = { type: "rect", xref: "paper", x0: 0, x1: 1, layer: "below" };
  const shapes = [
    Object.assign({}, across, { y0: 1 / (1 + resolution), y1: 1 + resolution, fillcolor: token("--grid"), line: { width: 0 } }),
    Object.assign({}, across, { type: "line", y0: 1, y1: 1, line: { color: token("--front"), width: 1 } }),
  ];
  const ys = [1, ...traces.flatMap((trace) => trace.y)];
  plot("chart-speedup", traces, layout(
    sparsityAxis(known.map((row) => row.sparsity)), logAxis("Speed-up over dense", ys, { ticksuffix: "×" }), { shapes }));
  document.getElementById("chart-speedup").setAttribute("aria-label", "Speed-up over dense: " + known.map((row) =>
    `${row.checkpoint} with ${engineOf(row)} ${row.speedup_vs_dense.toFixed(2)}`).join("; "));
}
