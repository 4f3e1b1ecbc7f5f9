"""The reports in a real browser: no complaint, every chart drawn, filters and keys work, any width, dark, paper."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
from bench_builders import build_session, record
from browser import CHROMIUM, Browser
from PIL import Image

from bench.measurement import Bandwidth, Measurement, Measurements, Peak, Step
from bench.report.compare import compare
from bench.report.compare_report import write_comparison
from bench.report.write import write_report

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to open the report in")

HEADLINE = "1.25\u00d7 as fast as the fastest dense network, for 0.3 points of accuracy."
CHARTS = ("chart-pareto", "chart-speedup", "chart-layers")
CHOOSE = "document.querySelector('input[name={name}][value=\"{value}\"]').click()"
VISIBLE = "[...document.querySelectorAll('#rows tbody tr')].filter(row => !row.hidden)"
TAB, SPACE, RIGHT = ("Tab", 9), (" ", 32), ("ArrowRight", 39)


def both_threads(slower: float = 1.0) -> Measurements:
    """Dense, 2:4 and three sparsities of st3 at one and at two threads, where everything is twice as fast."""
    spec = [("d", "dense", 0.0, 2.0, 0.9), ("n", "st3", 0.5, 1.9, 0.9), ("a", "st3", 0.8, 1.6, 0.897)]
    spec += [("b", "st3", 0.9, 1.0, 0.893), ("c", "st3", 0.95, 0.5 * slower, 0.885)]
    sparse = {"n": ("onnxruntime", "2:4")}
    artifacts = []
    for name, method, sparsity, _, _ in spec:
        backend, pattern = sparse.get(name, ("native", "unstructured"))
        artifacts.append(record(name, method, sparsity, backend, pattern=pattern))
    accuracy = {name: value for name, _, _, _, value in spec}
    measurements: list[Measurement] = []
    steps: list[Step] = []
    for threads in (1, 2):
        rounds = {name: [[ms / threads]] * 8 for name, _, _, ms, _ in spec}
        session = build_session(artifacts, rounds, accuracy, {"d": [[2.02 / threads]] * 8}, threads=threads)
        measurements += session.measurements
        for name, ms in (("d", 2.0), ("b", 1.0), ("c", 0.5)) if threads == 1 else ():
            for part, share in ((f"stage{i}.{j}.conv", 0.03) for i in range(3) for j in range(10)):
                steps.append(Step(name, 1, 1, part, part, "kernel", 1000, (ms * share,)))
            steps.append(Step(name, 1, 1, "pool", "", "pool", 0, (0.02 if name == "d" else 0.05,)))
    return Measurements(
        session=session.session,
        artifacts=tuple(artifacts),
        measurements=tuple(measurements),
        refusals=(),
        end=session.end,
        steps=tuple(steps),
        peaks=(Peak("registers", 1, (10.0,)),),
        bandwidths=(Bandwidth("L2", 1, (10.0,)),),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("report")
    write_report(both_threads(), "measurements.jsonl", made)
    write_comparison(compare(both_threads(), both_threads(1.5), ("a.jsonl", "b.jsonl")), made, ("a.jsonl", "b.jsonl"))
    return made


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as started:
        yield started


def choose(browser: Browser, name: str, value: object) -> None:
    browser.run(CHOOSE.format(name=name, value=value))


def points(browser: Browser, chart: str) -> int:
    return int(browser.run(f"document.querySelectorAll('#{chart} .point').length"))


def column(browser: Browser, header: str) -> list[float]:
    at = f"[...document.querySelectorAll('#rows thead th')].findIndex(th => th.textContent === '{header}')"
    return [float(value) for value in browser.run(f"{VISIBLE}.map(row => row.cells[{at}].dataset.value)")]


def test_every_chart_is_drawn_and_the_filters_choose_what(folder: Path, browser: Browser) -> None:
    browser.open(folder / "report.html")
    assert browser.run("document.getElementById('headline').textContent") == HEADLINE
    for chart in CHARTS:
        drawn = browser.run(f"document.getElementById('{chart}').innerHTML")
        assert "main-svg" in drawn
        assert "Infinity" not in drawn
        assert "NaN" not in drawn
    assert points(browser, "chart-pareto") == 5
    # four sparse artifacts, and the marks of the lone 2:4 ratio and its roofline
    assert points(browser, "chart-speedup") == 6
    # 30 layers are more than are shown at once: three stages of ten blocks, the other steps, and both ends
    assert points(browser, "chart-layers") == 33
    assert browser.run(f"{VISIBLE}.length") == 5

    browser.run("document.querySelector('#key-kinds input[value=\"st3 2:4\"]').click()")
    assert (points(browser, "chart-pareto"), points(browser, "chart-speedup")) == (4, 3)
    assert browser.run(f"{VISIBLE}.length") == 4
    browser.run("document.querySelector('#key-backends input[value=native]').click()")
    assert browser.run("document.getElementById('no-speedup').hidden") is False
    assert browser.run(f"{VISIBLE}.length") == 0
    browser.run("for (const box of document.querySelectorAll('.keys input:not(:checked)')) box.click()")

    choose(browser, "threads", 2)
    assert browser.run("document.getElementById('no-layers').hidden") is False
    assert browser.run("document.getElementById('no-roofline').hidden") is False
    assert min(column(browser, "p50, ms")) == 0.25
    browser.run("document.getElementById('everything').click()")
    assert browser.run(f"{VISIBLE}.length") == 10
    assert browser.complaints == []


def test_the_table_sorts_and_shows_the_columns_of_a_topic(folder: Path, browser: Browser) -> None:
    browser.open(folder / "report.html")
    press = "[...document.querySelectorAll('#rows thead button')].find(b => b.textContent === 'p50, ms').click()"
    browser.run(press)
    assert column(browser, "p50, ms") == [0.5, 1.0, 1.6, 1.9, 2.0]
    browser.run(press)
    assert column(browser, "p50, ms") == [2.0, 1.9, 1.6, 1.0, 0.5]
    shown = "[...document.querySelectorAll('#rows thead th')].filter(th => th.offsetParent).map(th => th.textContent)"
    overview = browser.run(shown)
    browser.run("const s = document.getElementById('topic'); s.value = 'work'; s.dispatchEvent(new Event('change'))")
    work = browser.run(shown)
    assert "Speed-up" in overview
    assert "Speed-up" not in work
    assert "Dense MACs" in set(work) - set(overview)
    assert {"Method", "Sparsity"} <= set(work) & set(overview)


def test_the_waterfall_leads_from_dense_to_sparse(folder: Path, browser: Browser) -> None:
    browser.open(folder / "report.html")
    bars = "document.getElementById('chart-layers').data[0]"
    lengths, bases = browser.run(f"[Array.from({bars}.x), Array.from({bars}.base)]")
    # the best within two points of accuracy comes first: from dense each bar begins where the one before has ended
    level = lengths[0]
    for length, base in zip(lengths[1:-1], bases[1:-1], strict=True):
        slower = math.isclose(base, level, rel_tol=1e-6)
        assert slower or math.isclose(base + length, level, rel_tol=1e-6)
        level = base + length if slower else base
    assert math.isclose(level, lengths[-1], rel_tol=1e-6)
    assert math.isclose(lengths[0], 2.0 * 0.9 + 0.02, rel_tol=1e-6)
    choose(browser, "grain", "layers")
    assert points(browser, "chart-layers") == 33
    rows = browser.run("[...document.querySelectorAll('#layer-times tbody tr')].map(r => r.cells[0].textContent)")
    assert (len(rows), rows[-2:]) == (32, ["other steps", "all"])


def test_everything_can_be_reached_and_used_with_the_keyboard(folder: Path, browser: Browser) -> None:
    browser.open(folder / "report.html")
    focus = "document.activeElement.id || document.activeElement.name || document.activeElement.textContent.trim()"
    # the outline of what has the focus; a hidden radio button's is drawn around its label
    outlined = (
        "(e => [e, e.nextElementSibling].some(x => x && getComputedStyle(x).outlineStyle !== 'none' && "
        "parseFloat(getComputedStyle(x).outlineWidth) >= 2))(document.activeElement)"
    )
    reached: list[str] = []
    for _ in range(120):
        browser.press(*TAB)
        if browser.run("document.activeElement === document.body"):
            break
        reached.append(browser.run(focus))
        assert browser.run(outlined), f"no visible focus on {reached[-1]}"
        if reached[-1] == "threads":
            browser.press(*RIGHT)
            assert browser.run("document.querySelector('input[name=threads]:checked').value") == "2"
            browser.press("ArrowLeft", 37)
        if reached[-1] == "everything":
            browser.press(*SPACE)
            assert browser.run(f"{VISIBLE}.length") == 10
    assert reached[0] == "Skip to the results"
    names = {
        "threads",
        "layer-artifact",
        "grain",
        "topic",
        "everything",
        "Speed-up",
        "report.csv",
        "measurements.jsonl",
    }
    assert names <= set(reached)
    # the check boxes of the keys have no name of their own, their labels have
    assert reached.count("") == browser.run("document.querySelectorAll('.keys input').length") == 5
    unnamed = "[...document.querySelectorAll('input, select')].filter(e => !e.labels.length).length"
    assert browser.run(unnamed) == 0
    assert browser.complaints == []


@pytest.mark.parametrize(
    ("page", "width", "dark"),
    [
        ("report.html", 1280, False), ("report.html", 1280, True), ("report.html", 400, False),
        ("report.html", 400, True), ("compare.html", 1280, True), ("compare.html", 400, False),
    ],
)  # fmt: skip
def test_a_page_fits_and_is_drawn_in_its_scheme(
    folder: Path, browser: Browser, tmp_path: Path, page: str, width: int, dark: bool
) -> None:
    browser.open(folder / page, width=width, dark=dark)
    assert browser.run("document.documentElement.scrollWidth") <= width
    for chart in CHARTS if page == "report.html" else ("chart-compare",):
        left, right, height = browser.run(
            f"(r => [r.left, r.right, r.height])(document.querySelector('#{chart} .main-svg').getBoundingClientRect())"
        )
        assert left >= 0
        assert right <= width
        assert height >= 150
    with Image.open(browser.picture(tmp_path / "page.png")) as image:
        pixels = np.asarray(image.convert("RGB"), np.int16)
    paper = pixels[2, -2]
    assert (paper.mean() > 200) != dark
    # lines of pixels carry something, up to the right edge, and colours beside grey appear
    inked = np.abs(pixels - paper).max(axis=2) > 40
    assert inked.any(axis=1).mean() > 0.25
    assert inked[:, int(width * 0.75) :].any()
    assert ((pixels.max(axis=2) - pixels.min(axis=2)) > 60).sum() > 400
    assert browser.complaints == []


def test_charts_follow_when_the_scheme_changes(folder: Path, browser: Browser) -> None:
    browser.open(folder / "report.html")
    ink = "document.querySelector('#chart-pareto .xtick text').style.fill"
    light = browser.run(ink)
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    browser.run("new Promise(done => setTimeout(done, 100))")
    assert browser.run(ink) != light


def test_a_page_is_printed_light_and_with_its_charts(folder: Path, browser: Browser, tmp_path: Path) -> None:
    browser.open(folder / "report.html", dark=True)
    browser.run(
        "addEventListener('beforeprint', () => { window.printed = [...document.querySelectorAll('.main-svg')]"
        ".map(svg => svg.getBoundingClientRect().width).concat(getComputedStyle(document.body).color) })"
    )
    browser.call("Emulation.setEmulatedMedia", media="print")
    browser.run("dispatchEvent(new Event('beforeprint'))")
    for chart in CHARTS:
        inside, around = browser.run(
            f"['.main-svg', '.chart'].map(s => (e => e.getBoundingClientRect().height)("
            f"s === '.chart' ? document.getElementById('{chart}') : document.querySelector('#{chart} .main-svg')))"
        )
        assert inside <= around + 1, "a chart covers what follows it"
    browser.run("dispatchEvent(new Event('afterprint'))")
    browser.call("Emulation.setEmulatedMedia", media="")
    paper = browser.paper(tmp_path / "report.pdf").read_bytes()
    assert paper.startswith(b"%PDF")
    assert len(paper) > 50_000
    *widths, ink = browser.run("window.printed")
    assert max(widths) <= 700
    # dark ink, though the screen is dark as well
    assert ink == "rgb(22, 25, 29)"
    assert browser.run("document.documentElement.classList.contains('printing')") is False
    assert browser.complaints == []


def test_the_comparison_is_drawn_and_filtered(folder: Path, browser: Browser) -> None:
    browser.open(folder / "compare.html")
    assert points(browser, "chart-compare") == 5
    assert browser.run("document.getElementById('headline').textContent").startswith(
        "B is no different in 4 and slower in 1"
    )
    colors = browser.run("document.getElementById('chart-compare').data[0].marker.color")
    assert len(set(colors)) == 2
    choose(browser, "threads", 2)
    assert browser.run(f"{VISIBLE}.length") == 5
    browser.run("document.getElementById('everything').click()")
    assert browser.run(f"{VISIBLE}.length") == 10
    assert browser.complaints == []


def test_a_session_without_accuracy_or_peaks_says_so_in_the_charts_place(browser: Browser, tmp_path: Path) -> None:
    made = both_threads()
    bare = tuple(m for m in made.measurements if m.metric == "latency")
    write_report(msgspec.structs.replace(made, measurements=bare, peaks=(), steps=()), "m.jsonl", tmp_path)
    browser.open(tmp_path / "report.html")
    for note in ("no-accuracy", "no-layers", "no-roofline"):
        assert browser.run(f"document.getElementById('{note}').hidden") is False
    assert browser.run("document.getElementById('chart-pareto').hidden") is True
    assert points(browser, "chart-speedup") == 5
    assert browser.complaints == []
