"""What the doctor says of the processor: what the system hides is unknown, and what was measured is remembered."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from bench.environment import count_cpus
from bench.machine import processor, speed
from bench.machine.peaks import Capacity
from bench.machine.precision import precisions_of
from bench.machine.processor import Cache, caches
from bench.machine.show import processor_table, speed_table
from bench.machine.speed import Speed, Speeds, thread_counts
from bench.measurement import Bandwidth, Peak


def shown(part: object) -> str:
    console = Console(width=160)
    with console.capture() as capture:
        console.print(part)
    return capture.get()


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text + "\n")


def test_caches_are_read_from_sysfs(tmp_path: Path) -> None:
    first = {"level": "1", "type": "Data", "size": "48K", "coherency_line_size": "64", "shared_cpu_list": "0,64"}
    write(tmp_path / "index0", **first)
    write(tmp_path / "index1", level="3", type="Unified", size="2M", shared_cpu_list="0-31,64-95")
    write(tmp_path / "index2", level="what", size="unknown", shared_cpu_list="?")
    assert caches(tmp_path) == (
        Cache(1, "Data", 48 * 1024, 64, 2),
        Cache(3, "Unified", 2 * 1024**2, None, 64),
        Cache(None, None, None, None, None),
    )
    assert caches(tmp_path / "nothing") == ()


def test_a_system_that_says_nothing_is_unknown_and_no_crash(tmp_path: Path) -> None:
    found = processor.examine(tmp_path)
    assert (found.cores, found.sockets, found.numa_nodes, found.caches) == (None, None, None, ())
    text = shown(processor_table(found))
    assert "cores unknown" in text
    assert "NUMA nodes unknown" in text
    assert any(line.split() == ["caches", "unknown"] for line in text.splitlines())


def test_cores_are_counted_by_socket_and_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor.os, "cpu_count", lambda: 4)
    for number in range(4):
        write(tmp_path / f"cpu/cpu{number}/topology", physical_package_id=str(number // 2), core_id="0")
    assert (processor.examine(tmp_path).cores, processor.examine(tmp_path).sockets) == (2, 2)
    write(tmp_path / "cpu/cpu3/topology", core_id="-1")  # as some virtual machines have it
    assert processor.examine(tmp_path).cores is None
    assert processor.examine(tmp_path).sockets == 2


def test_this_machine_is_described() -> None:
    text = shown(processor_table(processor.examine()))
    assert "processor" in text
    assert "load" in text


def test_a_busy_machine_is_called_so() -> None:
    quiet = msgspec.structs.replace(processor.examine(), load_average=(0.1, 0.0, 0.0))
    busy = msgspec.structs.replace(quiet, load_average=(99.0, 0.0, 0.0))
    assert not quiet.is_busy
    assert busy.is_busy
    assert "come out too low" in shown(processor_table(busy))


@pytest.mark.parametrize(("text", "count"), [("0-1,4", 3), ("", 0), ("7", 1), ("none", 0)])
def test_a_cpu_list_is_counted(text: str, count: int) -> None:
    assert count_cpus(text) == count


@pytest.mark.parametrize(("cpus", "counts"), [(1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8)), (0, (1,))])
def test_every_doubling_and_all_cpus_are_measured(cpus: int, counts: tuple[int, ...]) -> None:
    assert thread_counts(cpus) == counts


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of threads that were measured, by a fake."""
    asked: list[int] = []

    def fake(cpu_sets: list[tuple[int, ...]]) -> Capacity:
        threads = len(cpu_sets[0])
        asked.append(threads)
        return Capacity((Peak("registers", threads, (100.0,)),), (Bandwidth("DRAM", threads, (10.0,)),))

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(speed, "measure_capacity", fake)
    monkeypatch.setattr(speed, "usable_cpus", lambda: (0, 1, 2, 3))
    return asked


def test_what_was_measured_is_remembered(measured: list[int]) -> None:
    assert speed.known_or_measured(2).of(2) == Speed(2, {"registers": 100.0}, {"DRAM": 10.0})
    assert speed.known_or_measured(2).of(2) is not None
    assert measured == [2]
    assert [row.threads for row in speed.measure().rows] == [1, 2, 4]
    assert measured == [2, 1, 2, 4]
    assert speed.known_or_measured(4).of(4) is not None
    assert speed.known_or_measured(64).of(64) is None  # more than there are
    assert measured == [2, 1, 2, 4]


def test_a_damaged_memory_is_none_and_one_that_cannot_be_written_no_failure(
    measured: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = speed.cache_file()
    path.parent.mkdir(parents=True)
    path.write_bytes(b'{"a": 3}')
    assert speed.read() == Speeds()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert speed.known_or_measured(1).of(1) is not None
    assert speed.read() == Speeds()


def test_without_a_compiler_the_table_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "measure_capacity", lambda _: Capacity(note="no compiler; install g++"))
    found = speed.measure()
    assert found.rows == ()
    assert speed_table(found) == "no compiler; install g++"


def test_the_speed_table_has_a_line_per_number_of_threads(measured: list[int]) -> None:
    text = shown(speed_table(speed.measure()))
    assert "GFLOP/s, registers" in text
    assert text.count("100.0") == 3


def test_precisions_below_float32_are_said_with_what_to_measure(tmp_path: Path) -> None:
    found = processor.examine(tmp_path)

    def text(*flags: str) -> str:
        machine = msgspec.structs.replace(found.machine, cpu_flags=flags)
        changed = msgspec.structs.replace(found, machine=machine, precisions=precisions_of(flags))
        lines = shown(processor_table(changed)).split("below float32")[1].split("topology")[0]
        return " ".join(lines.split())

    assert text("avx512f", "amx_bf16", "amx_int8", "avx512_fp16", "avx512_vnni") == (
        "bfloat16 (amx_bf16), float16 (avx512_fp16), int8 (amx_int8 avx512_vnni): dense networks may be faster in "
        "these than in float32; measure sparse ones against them, too: st3 bench --baseline "
        "openvino-bfloat16:FILE.onnx, openvino-float16:FILE.onnx, openvino:INT8.onnx of python -m bench.quantize; "
        "native computes sparse networks in float16: st3 compile --dtype float16"
    )
    assert text("asimd", "asimddp") == (
        "int8 (asimddp): dense networks may be faster in these than in float32; measure sparse ones against them, "
        "too: st3 bench --baseline openvino:INT8.onnx of python -m bench.quantize"
    )
    assert text("avx2").startswith("no instructions for bfloat16, float16 or int8")
    assert text() == "unknown"
