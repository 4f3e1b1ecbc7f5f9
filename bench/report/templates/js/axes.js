// Axes: linear and logarithmic, with ticks at round numbers.
function axis(text, more) {
  return Object.assign({
    title: { text, font: { size: 13 }, standoff: 12 }, gridcolor: token("--grid"), linecolor: token("--line"), fixedrange: true,
    zeroline: false, ticks: "outside", tickcolor: token("--line"), automargin: true,
  }, more);
}

function short(number) { return String(Number(number.toPrecision(3))); }

function logAxis(text, values, more) {
  const known = values.filter((value) => value > 0);
  const low = Math.min(...known), high = Math.max(...known);
  const steps = high / low > 30 ? [1, 2, 5] : high / low > 3 ? [1, 1.5, 2, 3, 5, 7] : [1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.8, 2, 2.2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9];
  const pad = Math.max(0.06 * Math.log10(high / low), 0.03);
  const range = [Math.log10(low) - pad, Math.log10(high) + pad];
  const ticks = [];
  for (let power = Math.floor(range[0]); power <= Math.ceil(range[1]); power += 1)
    for (const step of steps) {
      const at = Math.log10(step) + power;
      if (at >= range[0] && at <= range[1]) ticks.push(step * 10 ** power);
    }
  const every = Math.ceil(ticks.length / (narrow() ? 6 : 9));
  const shown = ticks.filter((_, index) => index % every === 0);
  return axis(text, Object.assign({ type: "log", range, tickvals: shown, ticktext: shown.map(short) }, more));
}

// Sparsity on the scale of the density: where half of the weights go, the scale takes one step
function sparsityAxis(sparsities) {
  const densities = sparsities.map((sparsity) => 1 - sparsity);
  const low = Math.log10(Math.min(...densities)), high = Math.log10(Math.max(...densities));
  const pad = Math.max(0.07 * (high - low), 0.05);
  const range = [high + pad, low - pad];
  const room = (range[0] - range[1]) / (narrow() ? 9 : 14);
  const shown = [];
  for (const sparsity of [...new Set(sparsities)].sort((a, b) => b - a))
    if (!shown.length || Math.log10(1 - sparsity) - Math.log10(1 - shown[shown.length - 1]) > room) shown.push(sparsity);
  return axis("Sparsity, fraction of zero weights", {
    type: "log", range, tickvals: shown.map((sparsity) => 1 - sparsity), ticktext: shown.map(short),
  });
}
