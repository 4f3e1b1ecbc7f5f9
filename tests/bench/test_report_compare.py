"""Two sessions side by side: what is paired, what counts as a difference, and what is refused."""

from __future__ import annotations

import csv
import json
import math
from typing import TYPE_CHECKING

import msgspec
import pytest
from bench_builders import build_session, record
from click.testing import CliRunner

from bench.measurement import Measurement
from bench.measurement_file import Writer
from bench.report.between import LogLatency, log_latency, quotient
from bench.report.command import report
from bench.report.compare import compare
from bench.report.compare_report import write_comparison
from bench.report.launches import Spread
from runtime.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from bench.measurement import ArtifactRecord, Measurements
    from bench.report.compare import Pair

ARTIFACTS = [record("d", "dense", 0.0, "native"), record("s", "st3", 0.9, "native"), record("t", "st3", 0.95, "native")]
BASE_MS = {"d": 2.0, "s": 1.0, "t": 0.5}


def rounds(ms: float, noise: float) -> list[list[float]]:
    return [[ms * (1 + noise * sign)] for sign in (-1, 0, 1, -1, 0, 1, -1, 0, 1)]


def session(
    factor: float = 1.0,
    slower: str = "",
    noise: float = 0.01,
    artifacts: list[ArtifactRecord] = ARTIFACTS,
    apart: float = 1.02,
) -> Measurements:
    """Everything ``factor`` times as slow, ``slower`` by 1.5 more; the A/A pair is ``apart``."""
    names = [artifact.digest for artifact in artifacts]
    times = {name: BASE_MS[name[0]] * factor * (1.5 if name == slower else 1) for name in names}
    return build_session(
        artifacts,
        {name: rounds(ms, noise) for name, ms in times.items()},
        dict.fromkeys(names, 0.9),
        {"d": rounds(BASE_MS["d"] * factor * apart, noise)},
    )


def by_name(pairs: tuple[Pair, ...]) -> dict[str, Pair]:
    return {pair.checkpoint: pair for pair in pairs}


def test_a_session_does_not_differ_from_itself() -> None:
    made = compare(session(), session(), ("a", "b"))
    assert [pair.differs for pair in made.pairs] == [False] * 3
    assert [pair.speedup_differs for pair in made.pairs] == [None, False, False]
    assert made.headline == "B is no different in all 3 that both have measured."
    assert made.speedups == "B's speed-up over dense is no different in all 2 that both have measured."
    assert made.unpaired == ()


def test_a_slower_artifact_is_found_and_its_speedup_with_it() -> None:
    made = compare(session(), session(slower="s"), ("a", "b"))
    pairs = by_name(made.pairs)
    slow = pairs["st3-unstructured-0.9"]
    assert slow.differs is True
    assert slow.ratio == pytest.approx(1 / 1.5)
    assert slow.ratio_low < slow.ratio < slow.ratio_high < 1
    assert (slow.speedup_differs, slow.speedup_ratio) == (True, pytest.approx(1 / 1.5))
    assert pairs["st3-unstructured-0.95"].differs is False
    assert made.headline == "B is no different in 2 and slower in 1 of 3 that both have measured."


def test_another_machine_s_speed_is_in_the_latencies_and_not_in_the_speedups() -> None:
    made = compare(session(), session(factor=2.0), ("a", "b"))
    assert [pair.differs for pair in made.pairs] == [True] * 3
    assert [pair.speedup_differs for pair in made.pairs] == [None, False, False]
    assert made.headline == "B is slower in all 3 that both have measured."


def test_a_difference_below_both_resolutions_is_none() -> None:
    # 5 % slower, and pairs that are 3 % apart: 1.03 * 1.03 is more than 1.05
    close = [session(factor=factor, noise=0.0, apart=1.03) for factor in (1.0, 1.05)]
    made = compare(*close, ("a", "b"))
    apart = 1 - 1 / 1.03
    assert made.pairs[0].resolution == pytest.approx((1 + apart) ** 2 - 1, rel=0.02)
    assert [pair.differs for pair in made.pairs] == [False] * 3
    assert [pair.differs for pair in compare(*reversed(close), ("b", "a")).pairs] == [False] * 3
    sharp = [session(factor=factor, noise=0.0, apart=1.001) for factor in (1.0, 1.05)]
    assert [pair.differs for pair in compare(*sharp, ("a", "b")).pairs] == [True] * 3
    assert [pair.differs for pair in compare(*reversed(sharp), ("b", "a")).pairs] == [True] * 3


def test_without_an_a_a_pair_nothing_can_be_told() -> None:
    bare = session()
    bare = msgspec.structs.replace(bare, measurements=tuple(m for m in bare.measurements if not m.control))
    made = compare(session(), bare, ("a", "b"))
    assert [pair.differs for pair in made.pairs] == [None] * 3
    assert made.headline == "B is not to be told from A's in all 3 that both have measured."


def test_between_launches_the_interval_widens() -> None:
    steady = Measurement("s", "latency", "ms", 1, 1, ((1.0,),) * 6, launches=(0, 0, 1, 1, 2, 2))
    moving = msgspec.structs.replace(steady, samples=((1.0,), (1.0,), (1.1,), (1.1,), (1.2,), (1.2,)))
    flat, wide = log_latency(steady, None), log_latency(moving, None)
    assert (flat.below, flat.above) == (0.0, 0.0)
    # three launches: t of 2 degrees of freedom over the square root of 3 times their deviation, at the least
    assert wide.above > 4.3 / math.sqrt(3) * 0.09
    known = log_latency(steady, Spread(deviation=0.1, freedom=10))
    assert known.above == pytest.approx(2.228 * 0.1 / math.sqrt(3))
    both = quotient(LogLatency(math.log(2), 0.3, 0.3), LogLatency(0.0, 0.4, 0.4))
    assert (both.value, both.high) == (pytest.approx(2.0), pytest.approx(2 * math.exp(0.5)))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"evaluation": "other"}, "field evaluation of the session is random in the one and other in the other"),
        ({"pictures": 3}, "field pictures of the session is 70 in the one and 3 in the other"),
    ],
)
def test_other_pictures_are_refused(change: dict[str, object], field: str) -> None:
    first = session()
    second = msgspec.structs.replace(first, session=msgspec.structs.replace(first.session, **change))
    with pytest.raises(UserError) as error:
        compare(first, second, ("a.jsonl", "b.jsonl"))
    assert field in str(error.value)
    assert "a.jsonl and b.jsonl cannot be compared" in str(error.value)


def test_other_recipes_batch_sizes_and_devices_are_refused_by_name() -> None:
    def changed(**change: object) -> Measurements:
        return session(artifacts=[msgspec.structs.replace(artifact, **change) for artifact in ARTIFACTS])

    lineage = msgspec.structs.replace(ARTIFACTS[0].lineage, recipe="huge")
    target = ARTIFACTS[0].target
    cases = (
        (changed(lineage=lineage), "field recipe is tiny in the one and huge in the other"),
        (changed(target=msgspec.structs.replace(target, batch_size=8)), "field batch_size is 1 in the one and 8"),
        (changed(target=msgspec.structs.replace(target, device="cuda")), "field device is cpu in the one and cuda"),
        (changed(target=msgspec.structs.replace(target, dtype="float16")), "field dtype is float32 in the one"),
        (changed(backend="other"), "field backend is native in the one and other in the other"),
    )
    for other, field in cases:
        with pytest.raises(UserError) as error:
            compare(session(), other, ("a", "b"))
        assert field in str(error.value)


def test_what_only_one_has_is_named_and_not_compared() -> None:
    made = compare(session(artifacts=ARTIFACTS[:2]), session(artifacts=[ARTIFACTS[0], ARTIFACTS[2]]), ("a", "b"))
    assert [pair.checkpoint for pair in made.pairs] == ["dense"]
    assert [(alone.side, alone.checkpoint) for alone in made.unpaired] == [
        ("A", "st3-unstructured-0.9"),
        ("B", "st3-unstructured-0.95"),
    ]


def test_several_of_one_name_are_paired_by_their_weights() -> None:
    def seed(digest: str, weights: str) -> ArtifactRecord:
        lineage = msgspec.structs.replace(ARTIFACTS[1].lineage, checkpoint_sha256=weights)
        return msgspec.structs.replace(ARTIFACTS[1], digest=digest, lineage=lineage)

    first = session(artifacts=[ARTIFACTS[0], seed("s1", "1"), seed("s2", "2")])
    second = session(artifacts=[ARTIFACTS[0], seed("s3", "2"), seed("s4", "3")])
    made = compare(first, second, ("a", "b"))
    assert [(pair.checkpoint, pair.same_weights) for pair in made.pairs] == [
        ("dense", True),
        ("st3-unstructured-0.9", True),
    ]
    assert [alone.side for alone in made.unpaired] == ["A", "B"]


def test_what_weakens_a_comparison_is_said() -> None:
    first, second = session(), session()
    changed = msgspec.structs.replace(
        second.session.environment,
        packages={"numpy": "3"},
        commit="abc",
        machine=msgspec.structs.replace(second.session.environment.machine, cpu_model="Other"),
    )
    lineage = msgspec.structs.replace(ARTIFACTS[0].lineage, checkpoint_sha256="1")
    second = msgspec.structs.replace(
        second,
        session=msgspec.structs.replace(second.session, environment=changed),
        artifacts=(msgspec.structs.replace(ARTIFACTS[0], lineage=lineage), *ARTIFACTS[1:]),
        end=None,
    )
    text = " ".join(compare(first, second, ("a", "b")).warnings)
    for part in (
        "did not take turns", "1 of 3 pairs have the same name but come from two trainings",
        "Different processors: A Example CPU <b>9</b>, B Other.", "numpy 2.0.0 and 3", "commits of the bench",
        "B: The session was interrupted",
    ):  # fmt: skip
        assert part in text


def test_texts_have_the_same_pairs_and_no_foreign_markup(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>|"
    renamed = [msgspec.structs.replace(artifact, backend=evil) for artifact in ARTIFACTS]
    made = compare(session(artifacts=renamed), session(slower="s", artifacts=renamed), (evil, "b"))
    write_comparison(made, tmp_path, ("a.jsonl", "b.jsonl"))
    pairs = json.loads((tmp_path / "compare.json").read_text())["pairs"]
    with (tmp_path / "compare.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert [line["ratio"] for line in lines] == [str(pair["ratio"]) for pair in pairs]
    markdown = (tmp_path / "compare.md").read_text()
    page = (tmp_path / "compare.html").read_text()
    assert evil not in markdown
    assert evil not in page
    assert markdown.count("| slower |") == 1
    assert page.count("<strong>slower</strong>") == 1
    assert 'href="a.jsonl"' in page


def test_the_command_compares_two_files(tmp_path: Path) -> None:
    paths = []
    for folder, made in (("one", session()), ("two", session(slower="t"))):
        writer = Writer(tmp_path / folder / "m.jsonl")
        writer.write([made.session, *made.artifacts, *made.measurements])
        writer.finish()
        paths.append(str(writer.path))
    done = CliRunner().invoke(report, [*paths, "--compare"], catch_exceptions=False)
    assert "B is no different in 2 and slower in 1 of 3" in done.output
    page = (tmp_path / "two/compare.html").read_text()
    assert "one/m.jsonl" in page
    assert 'href="../one/m.jsonl"' in page
    for arguments in ([*paths], [paths[0], "--compare"], [*paths, paths[0], "--compare"]):
        with pytest.raises(UserError, match="measurement files were given"):
            CliRunner().invoke(report, arguments, catch_exceptions=False)
