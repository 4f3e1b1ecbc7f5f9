"""The builder: what networks share is compiled once, and the library does not depend on who compiled first."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import capture_module, prune_randomly
from torch import nn

from compile.from_torch import read_graph
from compile.native import builder, toolchain
from compile.native.builder import Builder
from compile.native.emit import Source, emit
from compile.native.isa import isa_for
from compile.native.schedule import options
from compile.native.select import choose_plan
from compile.passes.simplify import simplify
from runtime.errors import UserError

ISA = isa_for("native")


@pytest.fixture(autouse=True)
def every_object_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other tests take an object from a test that made it before."""
    monkeypatch.setattr(builder, "build_object", toolchain.build_object)


def two_versions() -> tuple[Source, Source]:
    """Of a network with two layers of one shape and one of another, which has another tile in the second version."""
    torch.manual_seed(0)
    module = nn.Sequential(*(nn.Conv2d(*channels, 3, padding=1) for channels in ((6, 6), (6, 6), (6, 9))))
    graph = simplify(read_graph(capture_module(prune_randomly(module, 0.4), (6, 13, 11), 1)))
    plan = choose_plan(graph, 1, ISA, 2**20)
    ranked = options(plan, ISA, 48 * 1024)
    first = {name: schedules[0] for name, schedules in ranked.items()}
    last = list(first)[-1]
    other = next(schedule for schedule in ranked[last] if schedule.code != first[last].code)
    return emit(plan, first, ISA), emit(plan, first | {last: other}, ISA)


def test_a_unit_is_compiled_once_for_all_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    build = builder.build_object

    def count(source: Path, *rest: object) -> None:
        compiled.append(source.name)
        build(source, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builder, "build_object", count)
    one, other = two_versions()
    with Builder(ISA) as shared:
        shared.start(one)
        shared.library(one, tmp_path / "one.so")
        assert sorted(compiled) == sorted(one.files())
        assert len(one.units) == 2  # two layers have one shape
        del compiled[:]
        shared.library(other, tmp_path / "other.so")
        assert len(compiled) == 2  # the network, and the layer that differs
        assert set(compiled) < set(other.files())


def test_a_library_is_the_same_whatever_was_compiled_before(tmp_path: Path) -> None:
    one, other = two_versions()
    with Builder(ISA) as alone:
        expected = alone.library(other, tmp_path / "alone.so").read_bytes()
    with Builder(ISA) as shared:
        shared.library(one, tmp_path / "one.so")
        assert shared.library(other, tmp_path / "other.so").read_bytes() == expected


def test_what_the_compiler_refuses_is_told(tmp_path: Path) -> None:
    one, _ = two_versions()
    with Builder(ISA) as failing, pytest.raises(UserError, match=r"could not compile .*network.cpp: .*error"):
        failing.library(Source("no C++", one.units, one.steps, one.weights), tmp_path / "library.so")
