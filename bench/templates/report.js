// Draws the two charts of the chosen condition, and sorts and filters the table of results.
"use strict";
(() => {
  const groups = JSON.parse(document.getElementById("data").textContent);
  const everything = document.getElementById("everything");
  const symbols = ["circle", "diamond", "square", "triangle-up", "x", "star"];
  const backends = [...new Set(groups.flatMap((group) => group.rows.map((row) => row.backend)))].sort();
  // the most frequent kind gets the first colour; dense has its own
  const counts = new Map();
  for (const row of groups.flatMap((group) => group.rows)) counts.set(kind(row), (counts.get(kind(row)) || 0) + 1);
  counts.delete("dense");
  const kinds = [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a) || a.localeCompare(b));

  function kind(row) { return row.method === "dense" ? "dense" : `${row.method} ${row.pattern}`; }
  function token(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }
  function color(name) { return token(name === "dense" ? "--ink" : `--series-${(kinds.indexOf(name) % 6) + 1}`); }
  function symbol(backend) { return symbols[backends.indexOf(backend) % symbols.length]; }
  // Plotly reads a little HTML in its texts, and names come from files
  function plain(text) { return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;"); }
  function bySeries(rows) {
    const series = new Map();
    for (const row of rows) {
      const name = `${kind(row)}, ${row.backend}`;
      series.set(name, [...(series.get(name) || []), row]);
    }
    // long series first: a single artifact must not lie hidden under one of them
    return [...series].sort((a, b) => b[1].length - a[1].length);
  }
  function axis(text, more) {
    return Object.assign({
      title: { text, font: { size: 13 }, standoff: 10 }, gridcolor: token("--grid"), linecolor: token("--line"),
      zeroline: false, ticks: "outside", tickcolor: token("--line"), automargin: true,
    }, more);
  }
  function layout(x, y, more) {
    return Object.assign({
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 10, r: 12, t: 12, b: 10 },
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: token("--soft") },
      hoverlabel: { bgcolor: token("--raised"), bordercolor: token("--line"), font: { color: token("--ink"), size: 12 } },
      legend: { orientation: "h", x: 0, xanchor: "left", yref: "container", y: 0, yanchor: "bottom", font: { size: 12 } },
      hovermode: "closest", xaxis: x, yaxis: y,
    }, more);
  }
  const config = { displayModeBar: false, responsive: true };

  function hover(row) {
    const speedup = row.base ? "the base of the speed-ups" : row.speedup_vs_dense === null ? "no dense artifact to compare"
      : `${row.speedup_vs_dense.toFixed(2)}× (${row.speedup_low.toFixed(2)} to ${row.speedup_high.toFixed(2)})`;
    const accuracy = row.accuracy === null ? "not measured" : row.accuracy.toFixed(4);
    return `<b>${plain(row.checkpoint)}</b> with ${plain(row.backend)}<br>accuracy ${accuracy}<br>` +
      `p50 ${row.latency_ms_p50.toPrecision(4)} ms<br>${speedup}`;
  }

  function pareto(group) {
    const known = group.rows.filter((row) => row.accuracy !== null);
    const front = known.filter((row) => row.pareto).sort((a, b) => a.latency_ms_p50 - b.latency_ms_p50);
    const line = {
      type: "scatter", mode: "lines", name: "Pareto front", hoverinfo: "skip", line: { shape: "hv", width: 1.5, color: token("--front") },
      x: front.map((row) => row.latency_ms_p50), y: front.map((row) => row.accuracy),
    };
    const points = bySeries(known).map(([name, rows]) => ({
      type: "scatter", mode: "markers", name: plain(name), text: rows.map(hover), hovertemplate: "%{text}<extra></extra>",
      marker: { size: 10, color: color(kind(rows[0])), symbol: symbol(rows[0].backend), line: { width: 1, color: token("--paper") } },
      x: rows.map((row) => row.latency_ms_p50), y: rows.map((row) => row.accuracy),
    }));
    Plotly.react("chart-pareto", [line, ...points], layout(
      axis(`Latency p50 of a batch of ${group.rows[0].batch_size}, ms`, { rangemode: "tozero" }),
      axis("Accuracy, top-1", { tickformat: ".3~f" })), config);
  }

  function speedup(group) {
    const known = group.rows.filter((row) => row.speedup_vs_dense !== null && row.method !== "dense");
    const traces = bySeries(known).map(([name, unsorted]) => {
      const rows = [...unsorted].sort((a, b) => a.sparsity - b.sparsity);
      return {
        type: "scatter", mode: "lines+markers", name: plain(name), text: rows.map(hover), hovertemplate: "%{text}<extra></extra>",
        line: { color: color(kind(rows[0])), width: 2 }, marker: { size: 9, symbol: symbol(rows[0].backend) },
        x: rows.map((row) => row.sparsity), y: rows.map((row) => row.speedup_vs_dense),
        error_y: {
          type: "data", symmetric: false, thickness: 1, width: 4, array: rows.map((row) => row.speedup_high - row.speedup_vs_dense),
          arrayminus: rows.map((row) => row.speedup_vs_dense - row.speedup_low),
        },
      };
    });
    for (const [index, name] of kinds.filter((name) => known.some((row) => kind(row) === name)).entries()) {
      const promised = new Map(known.filter((row) => kind(row) === name).map((row) => [row.sparsity, row.macs_nonzero ? row.macs_dense / row.macs_nonzero : null]));
      const xs = [...promised.keys()].sort((a, b) => a - b);
      traces.push({
        type: "scatter", mode: xs.length > 1 ? "lines" : "markers", name: "dense over non-zero MACs",
        legendgroup: "macs", showlegend: index === 0,
        line: { color: color(name), width: 1.5, dash: "dot" }, marker: { symbol: "line-ew-open", size: 14, color: color(name), line: { width: 2, color: color(name) } },
        x: xs, y: xs.map((x) => promised.get(x)), hovertemplate: plain(name) + ": dense over non-zero MACs %{y:.1f}×<extra></extra>",
      });
    }
    const resolution = group.resolution || 0;
    const across = { type: "rect", xref: "paper", x0: 0, x1: 1, layer: "below" };
    const shapes = [
      Object.assign({}, across, { y0: 1 / (1 + resolution), y1: 1 + resolution, fillcolor: token("--grid"), line: { width: 0 } }),
      Object.assign({}, across, { type: "line", y0: 1, y1: 1, line: { color: token("--front"), width: 1 } }),
    ];
    Plotly.react("chart-speedup", traces, layout(
      axis("Sparsity, fraction of zero weights"),
      axis("Speed-up against dense", { type: "log", tickvals: [.1, .2, .5, 1, 2, 5, 10, 20, 50, 100], ticksuffix: "×" }),
      { shapes }), config);
  }

  function chosen() { return Number(document.querySelector("input[name=condition]:checked").value); }
  function draw() { pareto(groups[chosen()]); speedup(groups[chosen()]); }
  function show() {
    const index = chosen();
    document.getElementById("headline").textContent = groups[index].headline;
    for (const part of document.querySelectorAll("[data-condition]")) part.hidden = Number(part.dataset.condition) !== index;
    for (const row of document.querySelectorAll("[data-row]")) row.hidden = !everything.checked && Number(row.dataset.row) !== index;
    const batch = String(groups[index].rows[0].batch_size);
    for (const part of document.querySelectorAll("[data-batch]")) part.hidden = !everything.checked && !part.dataset.batch.split(" ").includes(batch);
    document.getElementById("rows").classList.toggle("every", everything.checked);
    draw();
  }
  function compare(a, b) {
    // an unknown value is no number, and goes last whatever the direction
    if (a === "" || b === "") return (a === "") - (b === "");
    return Number.isNaN(Number(a)) || Number.isNaN(Number(b)) ? a.localeCompare(b) : Number(a) - Number(b);
  }
  function sort(header) {
    const column = header.cellIndex;
    const upward = header.getAttribute("aria-sort") !== "ascending";
    for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", upward ? "ascending" : "descending");
    const body = header.closest("table").tBodies[0];
    const value = (row) => row.cells[column].dataset.value;
    body.append(...[...body.rows].sort((a, b) => {
      const known = value(a) !== "" && value(b) !== "";
      return (upward || !known ? 1 : -1) * compare(value(a), value(b));
    }));
  }

  for (const input of document.querySelectorAll("input[name=condition]")) input.addEventListener("change", show);
  for (const header of document.querySelectorAll("table.sortable th[scope=col]")) header.addEventListener("click", () => sort(header));
  everything.addEventListener("change", show);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  show();
})();
