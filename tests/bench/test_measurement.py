"""The measurement file: written as it goes, read back equal, and refused with line and field."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from bench_builders import build_session, record

from bench.measurement import (
    Bandwidth,
    Harness,
    Measurements,
    Missing,
    Peak,
    Record,
    Round,
    Served,
    Step,
    Surroundings,
    Turn,
)
from bench.measurement_file import Writer, measurements_of, merge, part_of, read_measurements, read_records, set_aside
from runtime.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def session() -> Measurements:
    artifacts = [record("d", "dense", 0.0, "onnxruntime"), record("s", "st3", 0.9, "native")]
    made = build_session(artifacts, {"d": [[2.0, 2.5]], "s": [[1.0]]}, {"d": 0.9, "s": 0.89}, {"d": [[2.0]]})
    steps = (Step("s", 1, 1, "relu", "conv", "offset_stream", 1000, (0.5, 0.6)),)
    return msgspec.structs.replace(made, steps=steps, peaks=(Peak("L1", 1, (99.5,)),))


@pytest.fixture
def path(session: Measurements, tmp_path: Path) -> Path:
    assert session.end is not None
    writer = Writer(tmp_path / "deep" / "measurements.jsonl")
    writer.write([session.session, *session.artifacts])
    writer.write([*session.measurements, *session.steps, *session.peaks, session.end])
    writer.finish()
    return writer.path


def change(path: Path, line: int, old: str, new: str) -> None:
    lines = path.read_text().split("\n")
    assert old in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old, new, 1)
    path.write_text("\n".join(lines))


def test_round_trip(session: Measurements, path: Path) -> None:
    assert read_measurements(path) == session


def test_records_are_on_disk_as_soon_as_they_are_written(session: Measurements, tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text("an older session")
    writer = Writer(tmp_path / "m.jsonl")
    writer.write([session.session, *session.artifacts, *session.measurements])
    # a killed bench leaves this: whole records under the other name, and the older session untouched
    assert read_measurements(writer.part).measurements == session.measurements
    assert read_measurements(writer.part).end is None
    assert writer.path.read_text() == "an older session"
    writer.abandon()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.jsonl"]


@pytest.mark.parametrize(
    ("line", "old", "new", "where"),
    [
        (1, '"type":"session"', '"type":"something"', "line 1, field type"),
        (1, '"schema_version":1', '"schema_version":99', "line 1, field schema_version: 99 is newer than 4"),
        (1, '"schema_version":1,', "", "line 1: not a measurement file"),
        (1, "{", "", "line 1: not a measurement file"),
        (1, '"rounds":1', '"rounds":"many"', "line 1, field settings.rounds"),
        (2, '"macs_dense":1000000', '"macs_dense":-0.5', "line 2, field layers["),
        (2, '"digest":"d"', '"digest":"e"', "line 4, field artifact: no artifact record has 'd'"),
        (4, '"batch_size":1', '"batch_size":null', "line 4, field batch_size"),
        (4, '"samples":[[2.0', '"samples":[["fast"', "line 4, field samples["),
        (4, '"samples":[[2.0', '"samples":[[-2.0', "line 4, field samples: a latency that is not positive"),
        (4, '"samples":[[2.0,2.5]]', '"samples":[[]]', "line 4, field samples: no samples, or a round without"),
        (4, '"samples":[[2.0,2.5]]', '"samples":[]', "line 4, field samples: no samples"),
        (4, '"metric":"latency"', '"metric":"latency","colour":1', "line 4: Object contains unknown field `colour`"),
        (3, "{", "{{", "line 3:"),
    ],
)  # fmt: skip
def test_broken_foreign_and_newer_files_are_refused_with_line_and_field(
    path: Path, line: int, old: str, new: str, where: str
) -> None:
    change(path, line, old, new)
    with pytest.raises(UserError) as error:
        read_measurements(path)
    assert where in str(error.value)
    assert str(path) in str(error.value)


def test_missing_empty_and_cut_off_files_are_refused(path: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_measurements(tmp_path / "nothing.jsonl")
    (tmp_path / "empty.jsonl").write_bytes(b"")
    with pytest.raises(UserError, match="is empty"):
        read_measurements(tmp_path / "empty.jsonl")
    raw = path.read_bytes()
    path.write_bytes(raw[:-20])
    with pytest.raises(UserError, match=rf"line {raw.count(10)}: the line is cut off"):
        read_measurements(path)


def test_a_step_of_an_unknown_artifact_is_refused(path: Path) -> None:
    change(path, 11, '"artifact":"s"', '"artifact":"z"')
    with pytest.raises(UserError, match=r"line 11, field artifact: no artifact record has 'z'"):
        read_measurements(path)


def test_two_sessions_in_one_file_are_refused(session: Measurements, path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[0] + b"".join(lines[1:]))
    with pytest.raises(UserError, match="line 2, field type: a second session"):
        read_measurements(path)
    path.write_bytes(b"".join(lines) + msgspec.json.encode(session.session) + b"\n")
    with pytest.raises(UserError, match=r"line \d+, field type: an end record before the last line"):
        read_measurements(path)


def test_gpus_are_read_as_the_driver_tells_them() -> None:
    from bench.environment import Gpu, gpus, parse_gpus

    line = "NVIDIA H100 80GB HBM3, 580.65.06, 81559, 1980, 1980, 2619, 118.52, 700.00, 34\n"
    withheld = "NVIDIA RTX A2000, 550.54, 6138, [N/A], 2100, 6001, [Not Supported], 70.00, 41\n"
    found = parse_gpus(line + withheld + "No devices were found\n")
    assert found[0] == Gpu("NVIDIA H100 80GB HBM3", "580.65.06", 81559, 1980, 1980, 2619, 118.52, 700, 34)
    assert (found[1].sm_mhz, found[1].power_w, found[1].temperature_c) == (0, 0, 41)
    assert len(found) == 2
    assert isinstance(gpus(), tuple)


ROUNDS = [
    Round(1, 1, 0, (0,), (Turn("d", "latency", "ms", (1.0, 2.0)), Turn("d", "latency", "ms", (1.5,), control=1))),
    Round(1, 1, 0, (0,), (Turn("d", "latency", "ms", (3.0,)), Turn("d", "latency", "ms", (2.5,), control=1))),
    Round(
        1, 1, 1, (0,), (Turn("d", "latency", "ms", (4.0,), stable=False), Turn("s", "latency", "ms", failure="died"))
    ),
]


def part_with_rounds(session: Measurements, path: Path) -> Path:
    writer = Writer(path)
    writer.write([session.session, *session.artifacts])
    writer.write(ROUNDS)
    writer.keep()
    return part_of(path)


def test_every_kind_of_record_comes_back(session: Measurements, tmp_path: Path) -> None:
    more: dict[str, tuple[Record, ...]] = {
        "bandwidths": (Bandwidth("DRAM", 2, (20.5, 21.0)),),
        "served": (Served("s", 1, 1, 90.0, 5.0, (1.25, 2.5), 88.5, 0), Served("s", 1, 1, 99.0, None, (), 0.0, 7)),
        "harness": (Harness((0.3,), (0.9,)),),
        "surroundings": (Surroundings(1, 1, 0, 12.5, (0.5,), 0.1, None),),
        "missing": (Missing("energy", "no counter", "d"),),
    }
    whole = msgspec.structs.replace(session, **more)
    writer = Writer(tmp_path / "m.jsonl")
    assert whole.end is not None
    records: list[Record] = [whole.session, *whole.artifacts, *whole.measurements, *whole.steps, *whole.peaks]
    writer.write([*records, *(record for kind in more.values() for record in kind), whole.end])
    writer.finish()
    assert read_measurements(tmp_path / "m.jsonl") == whole


def test_rounds_become_measurements_when_read_and_when_finished(session: Measurements, tmp_path: Path) -> None:
    part = part_with_rounds(session, tmp_path / "m.jsonl")
    dense, control, sparse = read_measurements(part).measurements
    assert dense.samples == ((1.0, 2.0), (3.0,), (4.0,))
    assert dense.launches == (0, 0, 1)
    assert dense.by_launch == (((1.0, 2.0), (3.0,)), ((4.0,),))
    assert (dense.stable, dense.failure, dense.cpus) == (False, None, (0,))
    assert (control.control, control.samples) == (1, ((1.5,), (2.5,)))
    assert (sparse.samples, sparse.failure) == ((), "died")
    Writer(tmp_path / "m.jsonl", resume=True).finish()
    assert not part.exists()
    assert read_measurements(tmp_path / "m.jsonl").measurements == (dense, control, sparse)
    assert b'"round"' not in (tmp_path / "m.jsonl").read_bytes()


def test_resuming_drops_a_line_that_was_cut_off_and_a_new_session_sets_it_aside(
    session: Measurements, tmp_path: Path
) -> None:
    path = tmp_path / "m.jsonl"
    part = part_with_rounds(session, path)
    whole = part.read_bytes()
    part.write_bytes(whole[:-30])
    with pytest.raises(UserError, match=r"line 6: the line is cut off.* `st3 bench --resume`"):
        read_records(part)
    assert merge(read_records(part, cut_off=True))[0].samples == ((1.0, 2.0), (3.0,))
    writer = Writer(path, resume=True)
    writer.write(ROUNDS[2:])
    writer.keep()
    assert part.read_bytes() == whole
    Writer(path).keep()
    assert set_aside(path).read_bytes() == whole


def test_a_session_before_schema_4_has_one_control_and_one_launch(session: Measurements, path: Path) -> None:
    text = path.read_text().replace('"control":1', '"control":true')
    path.write_text(text.replace('"schema_version":1', '"schema_version":3'))
    assert '"control":true' in text
    control = next(m for m in read_measurements(path).measurements if m.control)
    assert control.control == 1
    assert control.by_launch == (control.samples,)


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ('"artifact":"s"', '"artifact":"z"', "line 6, field turns[1].artifact: no artifact record has 'z'"),
        ('[4.0]', '[-4.0]', "line 6, field turns[0].samples: a latency that is not positive"),
        ('"samples":[4.0],', "", "line 6, field turns[0].samples: no samples, or a round without"),
        ('"launch":1', '"launch":"first"', "line 6, field launch"),
        ('"unit":"ms"', '"unit":7', "line 6, field turns[0].unit: Expected `str`"),
        ('"type":"round"', '"type":"square"', "line 6, field type"),
    ],
)  # fmt: skip
def test_broken_rounds_are_refused_with_line_and_field(
    session: Measurements, tmp_path: Path, old: str, new: str, where: str
) -> None:
    part = part_with_rounds(session, tmp_path / "m.jsonl")
    change(part, 6, old, new)
    with pytest.raises(UserError) as error:
        read_measurements(part)
    assert where in str(error.value)


def test_launches_must_fit_the_samples(session: Measurements, path: Path) -> None:
    wrong = msgspec.structs.replace(session.measurements[0], launches=(0, 0))
    writer = Writer(path)
    writer.write([session.session, *session.artifacts, wrong])
    writer.keep()
    with pytest.raises(UserError, match="line 4, field launches: 2 for 1 rounds of samples"):
        read_measurements(writer.part)
    assert measurements_of([session.session]).measurements == ()
