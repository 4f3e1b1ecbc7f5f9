"""Reads a file of `bench/results` as what its folder says it is, and compares its name with what it holds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from bench.cpu.rows import make_rows
from bench.environment import Environment
from bench.measurement_file import read_measurements
from bench.published.lines import (
    KernelLine,
    LaunchesLine,
    LayerLine,
    NetworkChoice,
    NetworkFloor,
    NetworkTime,
    ServeFuzz,
    ServeLoad,
    ServeSession,
    ServeSoak,
)
from runtime.errors import UserError
from runtime.training_rows import SpeedRow, SweepRow

T = TypeVar("T")

FOLDER = Path(__file__).resolve().parents[1] / "results"
_NAME = re.compile(r"(\d{4}-\d{2}-\d{2})_([a-z0-9.-]+)_([a-z0-9.-]+)_([a-z0-9.-]+)\.jsonl")


class Name(msgspec.Struct, frozen=True):
    """``DATE_WHAT_DEVICE_CONDITIONS.jsonl``."""

    date: str
    what: str
    device: str
    conditions: str


class Content(msgspec.Struct, frozen=True):
    """What a file says of itself: networks or recipes, conditions as its name must have them, and its date if told."""

    whats: tuple[str, ...]
    conditions: str
    date: str = ""


def result_files(folder: Path = FOLDER) -> list[Path]:
    """Every file with measurements, in whatever folder it lies."""
    return sorted(folder.rglob("*.jsonl"))


def parse_name(path: Path) -> Name:
    """The parts of a file's name; ``UserError`` that says what is wrong with it."""
    found = _NAME.fullmatch(path.name)
    if found is None:
        raise UserError(f"{path}: a name is DATE_WHAT_DEVICE_CONDITIONS.jsonl, small letters, digits, - and . in each")
    return Name(*found.groups())


def check(path: Path) -> None:
    """Read a file and compare its name with it.

    Raises:
        UserError: the folder is no known kind, a line is not of this kind, or the name says something else.
    """
    name = parse_name(path)
    kind = path.parent.name
    if kind not in KINDS:
        raise UserError(f"{path}: {kind} is no kind of measurement; the folders are {', '.join(KINDS)}")
    content = KINDS[kind](path)
    if content.conditions != name.conditions:
        raise UserError(f"{path}: its conditions are {content.conditions}; call it {_renamed(name, content)}")
    if content.whats and name.what not in content.whats:
        raise UserError(f"{path}: it holds {', '.join(content.whats)}, not {name.what}; call it by that")
    if content.date and content.date != name.date:
        raise UserError(f"{path}: it was measured on {content.date}; call it by that date")


def read_lines(path: Path, kind: type[T]) -> list[T]:
    """Every line of a file as a struct, or as one of a union; ``UserError`` with the number of a bad line."""
    decoder = msgspec.json.Decoder(kind)
    found = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            found.append(decoder.decode(line))
        except msgspec.MsgspecError as error:
            raise UserError(f"{path}, line {number}: {error}") from error
    if not found:
        raise UserError(f"{path} is empty")
    return found


def slug(text: str) -> str:
    """``mobilenet_v2`` as a name has it: ``mobilenet-v2``."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")


def _renamed(name: Name, content: Content) -> str:
    return f"{name.date}_{name.what}_{name.device}_{content.conditions}.jsonl"


def _conditions(dtypes: Iterable[str], **numbers: Iterable[int]) -> str:
    """``float16-b1-b32-t1``."""
    parts = [f"{letter}{number}" for letter, found in numbers.items() for number in sorted(set(found))]
    return "-".join([*sorted(set(dtypes)), *parts])


def _committed(path: Path, environment: Environment) -> None:
    if environment.commit == "unknown" or environment.commit.endswith("-dirty"):
        raise UserError(f"{path}: what is published has the commit of unchanged code, not {environment.commit}")


def _bench(path: Path) -> Content:
    session = read_measurements(path)
    if session.end is None:
        raise UserError(f"{path}: a session that is published has come to its end; it has no end record")
    _committed(path, session.session.environment)
    timed = [m for m in session.measurements if m.metric == "latency"]
    dtypes = {part for record in session.artifacts for part in record.target.dtype.split("+")}
    return Content(
        whats=tuple(dict.fromkeys(slug(record.lineage.recipe) for record in session.artifacts)),
        conditions=_conditions(dtypes, b=(m.batch_size for m in timed), t=(m.threads for m in timed)),
        date=session.session.environment.started[:10],
    )


def _bench_cpu(path: Path) -> Content:
    session = read_measurements(path)
    if not session.peaks:
        raise UserError(f"{path}: it has no peaks of the processor, so it is no session of bench-cpu")
    make_rows(session)
    return _bench(path)


def _gpu_networks(path: Path) -> Content:
    lines = read_lines(path, NetworkChoice | NetworkFloor | NetworkTime)  # type: ignore[arg-type]
    # the benchmark has one dtype
    return Content(_slugs(x.network for x in lines), _conditions(["float16"], b=(line.batch for line in lines)))


def _gpu_layers(path: Path) -> Content:
    lines = read_lines(path, LayerLine)
    dtypes = {str(line.problem["dtype"]) for line in lines}
    return Content(_slugs(line.network for line in lines), _conditions(dtypes, b=(line.batch for line in lines)))


def _gpu_kernels(path: Path) -> Content:
    first: dict[str, Any] = msgspec.json.decode(path.read_bytes().partition(b"\n")[0])
    if "kernel_version" in first:
        launches = read_lines(path, LaunchesLine)
        return Content((), _conditions({x.dtype for x in launches}, b=(x.batch for x in launches)))
    lines = read_lines(path, KernelLine)
    return Content((), _conditions({x.number_type for x in lines}, b=(x.batch_size for x in lines)))


def _sweep(path: Path) -> Content:
    lines = read_lines(path, SweepRow)
    return Content(
        whats=_slugs(line.recipe for line in lines),
        conditions=_conditions({slug(line.method) for line in lines}, seeds=[len({line.seed for line in lines})]),
    )


def _training_speed(path: Path) -> Content:
    lines = read_lines(path, SpeedRow)
    words = [*{line.precision for line in lines}, *{line.mode for line in lines}]
    return Content(_slugs(line.recipe for line in lines), _conditions(words, b=(line.batch_size for line in lines)))


def _serve(path: Path) -> Content:
    first, *lines = read_lines(path, ServeSession | ServeLoad | ServeFuzz | ServeSoak)  # type: ignore[arg-type]
    if not isinstance(first, ServeSession):
        raise UserError(f"{path}, line 1: it begins with a session, what bench.serve writes first")
    _committed(path, first.environment)
    words = {str(line.__struct_config__.tag) for line in lines}
    return Content(
        (slug(first.plan["artifact"]),),
        _conditions(words, c=[first.plan["clients"]]),
        first.environment.started[:10],
    )


def _slugs(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(slug, names)))


KINDS: dict[str, Callable[[Path], Content]] = {
    "bench": _bench,
    "bench-cpu": _bench_cpu,
    "gpu-networks": _gpu_networks,
    "gpu-layers": _gpu_layers,
    "gpu-kernels": _gpu_kernels,
    "sweep": _sweep,
    "training-speed": _training_speed,
    "serve": _serve,
}
"""A folder of `bench/results`, and who reads its files."""
