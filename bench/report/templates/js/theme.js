// What every chart shares: the data, the colours of the style sheet, fonts, and drawing again for print or for the dark.
const data = JSON.parse(document.getElementById("data").textContent);
const root = document.documentElement;
const PRINT_WIDTH = 690; // CSS pixels between the margins of an A4 sheet

function token(name) { return getComputedStyle(root).getPropertyValue(name).trim(); }
// Plotly reads a little HTML in its texts, and names come from files
function plain(text) { return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;"); }
function narrow() { return !root.classList.contains("printing") && innerWidth < 640; }

function layout(x, y, more) {
  return Object.assign({
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 10, r: 14, t: 14, b: 10 },
    font: { family: getComputedStyle(document.body).fontFamily, size: narrow() ? 12 : 13, color: token("--soft") },
    hoverlabel: {
      bgcolor: token("--raised"), bordercolor: token("--line"), align: "left", font: { color: token("--ink"), size: 13 },
    },
    showlegend: false, hovermode: "closest", dragmode: false, xaxis: x, yaxis: y,
  }, more);
}

function plot(id, traces, made) {
  const place = document.getElementById(id);
  const width = root.classList.contains("printing") ? PRINT_WIDTH : undefined;
  Plotly.react(place, traces, Object.assign(made, { width, autosize: width === undefined }), { displayModeBar: false, responsive: true });
}

function redrawWith(draw) {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  matchMedia("(max-width: 640px)").addEventListener("change", draw);
  addEventListener("beforeprint", () => {
    root.classList.add("printing");
    for (const part of document.querySelectorAll("details.paper-open")) part.open = true;
    draw();
  });
  addEventListener("afterprint", () => { root.classList.remove("printing"); draw(); });
}
