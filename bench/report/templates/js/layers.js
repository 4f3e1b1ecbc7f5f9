// Where the time goes: from the dense network's time down to the sparse one's, layer by layer.
const MANY = 24; // rows; more are shown block by block unless the reader wants every layer

function blockOf(name) {
  const parts = name.split(".");
  return parts.length < 2 ? name : parts.slice(0, Math.min(2, parts.length - 1)).join(".");
}

function gathered(layers) {
  const blocks = new Map();
  const plus = (a, b) => (a === null && b === null ? null : (a || 0) + (b || 0));
  for (const layer of layers) {
    const name = blockOf(layer.layer);
    const sum = blocks.get(name) || { layer: name, format: "", density: null, dense_ms: null, sparse_ms: null };
    blocks.set(name, Object.assign(sum, { dense_ms: plus(sum.dense_ms, layer.dense_ms), sparse_ms: plus(sum.sparse_ms, layer.sparse_ms) }));
  }
  return [...blocks.values()];
}

function ms(value) { return value === null ? "–" : value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(3); }
function total(layers, field) { return layers.reduce((sum, layer) => sum + (layer[field] || 0), 0); }

function waterfall(layers) {
  const dense = total(layers, "dense_ms"), sparse = total(layers, "sparse_ms");
  const bars = [{ name: "dense", base: 0, length: dense, color: token("--dense"), text: `${ms(dense)} ms`, hint: `dense: ${ms(dense)} ms` }];
  let level = dense;
  for (const layer of layers) {
    const saved = (layer.dense_ms || 0) - (layer.sparse_ms || 0);
    bars.push({
      name: layer.layer, base: level - Math.max(saved, 0), length: Math.abs(saved), color: token(saved < 0 ? "--worse" : "--better"),
      text: `${saved < 0 ? "+" : "−"}${ms(Math.abs(saved))}`, hint: `<b>${plain(layer.layer)}</b><br>dense ${ms(layer.dense_ms)} ms, sparse ${ms(layer.sparse_ms)} ms`,
    });
    level -= saved;
  }
  return [...bars, { name: "sparse", base: 0, length: sparse, color: token("--better"), text: `${ms(sparse)} ms`, hint: `sparse: ${ms(sparse)} ms` }];
}

function sparseAlone(layers) {
  return layers.map((layer) => ({
    name: layer.layer, base: 0, length: layer.sparse_ms || 0, color: token("--better"), text: ms(layer.sparse_ms),
    hint: `<b>${plain(layer.layer)}</b><br>sparse ${ms(layer.sparse_ms)} ms`,
  }));
}

function drawBars(bars) {
  const place = document.getElementById("chart-layers");
  const height = bars.length * 23 + 70;
  place.style.height = `${height}px`;
  const cut = (name) => (narrow() && name.length > 17 ? `${name.slice(0, 8)}…${name.slice(-8)}` : name);
  const positions = bars.map((_, index) => index);
  plot("chart-layers", [{
    type: "bar", orientation: "h", y: positions, x: bars.map((bar) => bar.length), base: bars.map((bar) => bar.base),
    marker: { color: bars.map((bar) => bar.color) }, text: bars.map((bar) => bar.text), textposition: "outside", cliponaxis: false,
    textfont: { color: token("--soft"), size: 12 }, customdata: bars.map((bar) => bar.hint), hovertemplate: "%{customdata}<extra></extra>",
    constraintext: "none",
  }], layout(
    axis("Milliseconds of a batch", { rangemode: "tozero", nticks: narrow() ? 5 : 10, range: [0, (narrow() ? 1.3 : 1.12) * Math.max(...bars.map((bar) => bar.base + bar.length))] }),
    { tickvals: positions, ticktext: bars.map((bar) => plain(cut(bar.name))), range: [bars.length - 0.4, -0.6], automargin: true, ticks: "outside", ticklen: 5, tickcolor: "rgba(0,0,0,0)", fixedrange: true, gridcolor: "rgba(0,0,0,0)", zeroline: false },
    { height, bargap: 0.3 }));
  place.setAttribute("aria-label", "Milliseconds by layer: " + bars.map((bar) => `${bar.name} ${bar.text}`).join("; "));
}

function cell(kind, text, numeric) {
  const made = document.createElement(kind);
  made.textContent = text;
  if (numeric) made.className = "number";
  if (kind === "th") made.scope = "row";
  return made;
}

function layerTable(layers) {
  const dense = total(layers, "dense_ms"), sparse = total(layers, "sparse_ms");
  const line = (layer) => {
    const row = document.createElement("tr");
    const ratio = layer.dense_ms && layer.sparse_ms ? `${(layer.dense_ms / layer.sparse_ms).toFixed(2)}×` : "–";
    row.append(
      cell("th", layer.layer), cell("td", layer.format || "–"), cell("td", layer.density === null ? "–" : layer.density.toFixed(3), true),
      cell("td", ms(layer.dense_ms), true), cell("td", ms(layer.sparse_ms), true), cell("td", ratio, true),
      cell("td", layer.sparse_ms === null || !sparse ? "–" : `${(100 * layer.sparse_ms / sparse).toFixed(1)} %`, true));
    return row;
  };
  const whole = line({ layer: "all", format: "", density: null, dense_ms: dense || null, sparse_ms: sparse });
  whole.className = "sum";
  document.querySelector("#layer-times tbody").replaceChildren(...layers.map(line), whole);
}

// Where nothing was timed the page says so instead of showing an empty chart
function drawLayers(group, rows) {
  const shown = new Map(rows.map((row) => [row.artifact, row]));
  const here = data.layers.filter((found) => shown.has(found.artifact) && found.batch_size === group.rows[0].batch_size && found.threads === group.rows[0].threads);
  document.getElementById("no-layers").hidden = here.length > 0;
  document.getElementById("layer-view").hidden = here.length === 0;
  if (!here.length) return;
  const select = document.getElementById("layer-artifact");
  const best = data.best[data.groups.indexOf(group)];
  const before = select.value;
  select.replaceChildren(...here.map((found) => new Option(`${shown.get(found.artifact).checkpoint}, ${engineOf(shown.get(found.artifact))}`, found.artifact)));
  const wanted = [before, ...best].find((artifact) => here.some((found) => found.artifact === artifact));
  if (wanted) select.value = wanted;
  const found = here.find((candidate) => candidate.artifact === select.value);
  const many = found.layers.length > MANY;
  document.getElementById("layer-grain").hidden = !many;
  const blocks = many && document.querySelector("input[name=grain]:checked").value === "blocks";
  const layers = blocks ? gathered(found.layers) : found.layers;
  const compared = layers.some((layer) => layer.dense_ms !== null);
  document.getElementById("layer-dense-missing").hidden = compared;
  document.getElementById("layer-compiler").hidden = found.source !== "compiler";
  document.getElementById("layer-steps").hidden = found.source !== "steps";
  drawBars(compared ? waterfall(layers) : sparseAlone(layers));
  layerTable(found.layers);
}
