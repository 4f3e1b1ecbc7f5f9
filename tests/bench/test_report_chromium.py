"""The report opened in a real browser: charts drawn, no console error, the choices work, the picture is not blank."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import numpy as np
import pytest
from bench_builders import build_session, record
from PIL import Image

from bench.measurement import Measurement, Measurements
from bench.report import write_report

if TYPE_CHECKING:
    from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to open the report in")

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--enable-logging=stderr", "--v=0", "--virtual-time-budget=5000",
)  # fmt: skip
TIMEOUT_S = 60
# appended to a copy of the page: does what a reader does, then leaves the outcome in the document
READER = """
<script>
const said = [];
const choose = (index) => document.querySelectorAll("input[name=condition]")[index].click();
const visible = () => [...document.querySelectorAll("#rows tbody tr")].filter((row) => !row.hidden);
const cells = (i) => visible().map((row) => row.cells[i].dataset.value).join(" ");
said.push("first " + visible().length + " rows, " + document.getElementById("headline").textContent);
choose(1);
said.push("second " + visible().length + " rows, " + document.getElementById("headline").textContent);
const header = [...document.querySelectorAll("#rows thead th")].findIndex((th) => th.textContent === "p50, ms");
document.querySelectorAll("#rows thead th button")[header].click();
said.push("up " + cells(header));
document.querySelectorAll("#rows thead th button")[header].click();
said.push("down " + cells(header));
document.getElementById("everything").click();
said.push("every " + visible().length + " rows");
const note = document.createElement("pre");
note.id = "said";
note.textContent = said.join("\\n");
document.body.append(note);
</script>
"""


def open_page(page: Path, folder: Path, *more: str) -> tuple[str, str]:
    """stdout and stderr of a headless browser with a profile of its own."""
    assert CHROMIUM is not None
    arguments = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", *more, page.as_uri()]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    return done.stdout, done.stderr


def both_threads() -> Measurements:
    """Dense, 2:4 and three sparsities of st3 at one and at two threads, where everything is twice as fast."""
    spec = [("d", "dense", 0.0, 2.0, 0.9), ("n", "st3", 0.5, 1.9, 0.9), ("a", "st3", 0.8, 1.6, 0.897)]
    spec += [("b", "st3", 0.9, 1.0, 0.893), ("c", "st3", 0.95, 0.5, 0.885)]
    artifacts = [
        record(
            name,
            method,
            sparsity,
            backend="native" if method == "st3" else "onnxruntime",
            pattern="2:4" if name == "n" else "unstructured",
        )
        for name, method, sparsity, _, _ in spec
    ]
    accuracy = {name: value for name, _, _, _, value in spec}
    measurements: list[Measurement] = []
    for threads in (1, 2):
        rounds = {name: [[ms / threads]] * 8 for name, _, _, ms, _ in spec}
        session = build_session(artifacts, rounds, accuracy, {"d": [[2.02 / threads]] * 8}, threads=threads)
        measurements += session.measurements
    return Measurements(
        session=session.session,
        artifacts=tuple(artifacts),
        measurements=tuple(measurements),
        refusals=(),
        end=session.end,
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_report(both_threads(), "measurements.jsonl", folder)
    return folder / "report.html"


def test_charts_are_drawn_and_the_choices_work(page: Path, tmp_path: Path) -> None:
    acting = tmp_path / "acting.html"
    acting.write_text(page.read_text().replace("</body>", READER + "</body>"))
    document, log = open_page(acting, tmp_path, "--dump-dom")
    assert not re.findall(r".*CONSOLE.*", log)
    pareto, speedup = (
        document[document.index(f'id="{name}"') :].split("<figcaption")[0] for name in ("chart-pareto", "chart-speedup")
    )
    for chart in (pareto, speedup):
        assert "main-svg" in chart
        assert "Infinity" not in chart
        assert "NaN" not in chart
    assert len(re.findall(r'class="point"', pareto)) == 5
    assert "Pareto front" in pareto
    # four sparse artifacts and the mark of the lone 2:4 ratio
    assert len(re.findall(r'class="point"', speedup)) == 5
    assert len(re.findall(r'class="trace scatter', speedup)) == 4
    assert "dense over non-zero MACs" in speedup
    assert "Batch" in document
    said = document.split('id="said">')[1].split("</pre>")[0].split("\n")
    headline = "1.25\u00d7 as fast as the fastest dense network, for 0.3 points of accuracy."
    assert said == [
        f"first 5 rows, {headline}",
        f"second 5 rows, {headline}",
        "up 0.25 0.5 0.8 0.95 1.0",
        "down 1.0 0.95 0.8 0.5 0.25",
        "every 10 rows",
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 500])
def test_the_picture_is_a_report_in_both_schemes(page: Path, tmp_path: Path, width: int, scheme: str) -> None:
    picture = tmp_path / "report.png"
    setting = "1" if scheme == "light" else "0"
    options = (f"--window-size={width},2600", f"--blink-settings=preferredColorScheme={setting}")
    _, log = open_page(page, tmp_path, f"--screenshot={picture}", *options)
    assert not re.findall(r".*CONSOLE.*", log)
    with Image.open(picture) as image:
        assert image.size == (width, 2600)
        pixels = np.asarray(image.convert("RGB"), np.int16)
    paper = pixels[2, 2]
    assert (paper.mean() > 200) == (scheme == "light")
    # a third of the lines of pixels carry something, over the whole width, and colours beside grey appear
    inked = np.abs(pixels - paper).max(axis=2) > 40
    assert inked.any(axis=1).mean() > 0.3
    assert inked[:, int(width * 0.75) :].any()
    assert ((pixels.max(axis=2) - pixels.min(axis=2)) > 60).sum() > 500


def test_nothing_is_wider_than_a_phone(page: Path, tmp_path: Path) -> None:
    # a frame: the browser's own window cannot be made as narrow as 400 pixels
    frame = tmp_path / "frame.html"
    probe = """<script>addEventListener("load", () => setTimeout(() => {
        const root = document.documentElement;
        const charts = document.querySelectorAll(".main-svg").length;
        parent.postMessage(`${root.scrollWidth} ${root.clientWidth} ${charts}`, "*");
    }, 500));</script></body>"""
    (tmp_path / "inner.html").write_text(page.read_text().replace("</body>", probe))
    frame.write_text(
        "<body><iframe src=inner.html style='width:400px;height:3000px;border:0'></iframe><script>"
        "addEventListener('message', (event) => { document.body.dataset.probe = event.data; });</script></body>"
    )
    document, _ = open_page(frame, tmp_path, "--dump-dom")
    probed = re.search(r'data-probe="(\d+) (\d+) (\d+)"', document)
    assert probed, document[:300]
    content, window, charts = map(int, probed.groups())
    assert window == 400
    assert content <= window
    assert charts >= 2
