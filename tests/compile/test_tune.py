"""The tuner: what it chooses is right, is remembered, and never depends on a damaged memory."""

from __future__ import annotations

import ctypes
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from networks import small_network
from support import Compiler, capture_module, prune_randomly
from torch import nn

from compile.format import Cut
from compile.from_torch import read_graph
from compile.native import tune, tuning_cache, weights
from compile.native.builder import Builder
from compile.native.emit import emit
from compile.native.isa import ISAS, isa_for
from compile.native.plan import Plan
from compile.native.schedule import Schedule, options, without_joins
from compile.native.select import choose_plan
from compile.native.taps import Taps
from compile.native.trial import aligned, open_library, pointers
from compile.native.weights import Packs
from compile.passes.simplify import simplify
from runtime.engine import load

L1, L2 = 48 * 1024, 2**20


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def plan_of(module: nn.Module, shape: tuple[int, int, int], batch_size: int = 1) -> Plan:
    graph = simplify(read_graph(capture_module(module, shape, batch_size)))
    return choose_plan(graph, batch_size, isa_for("native"), L2)


def tuned(plan: Plan, threads: int = 1) -> tuple[Plan, dict[str, Schedule]]:
    with Builder(isa_for("native")) as builder:
        return tune.tune(plan, builder, threads, L1, lambda _: None)


def two_layers() -> nn.Module:
    torch.manual_seed(0)
    return prune_randomly(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 1)), 0.4)


def pointwise_chain() -> nn.Module:
    torch.manual_seed(0)
    return prune_randomly(
        nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 9, 1), nn.ReLU(), nn.Conv2d(9, 7, 3)),
        0.5,
    )


def test_a_tuned_artifact_agrees_with_torch_and_says_what_was_measured(compiler: Compiler) -> None:
    artifact = compiler.artifact(two_layers(), (3, 13, 11), 2, tune=True)
    result = load(artifact.folder).run({"input": np.load(artifact.folder / "golden/inputs.npy")})["output"]
    expected = np.load(artifact.folder / "golden/outputs.npy")
    assert np.abs(result - expected).max() < 1e-5 * np.abs(expected).max()
    known = tuning_cache.read()
    assert len(known.schedules) == 2
    assert all("measured" in schedule.reason for schedule in known.schedules.values())


def test_what_the_others_took_is_told_by_the_round_that_both_ran_in() -> None:
    plan = plan_of(two_layers(), (3, 13, 11))
    one = next(iter(options(plan, isa_for("native"), L1).values()))[0]
    dense, stream, block = (
        msgspec.structs.replace(one, format=name) for name in ("dense", "offset_stream", "block_stream")
    )
    text = tune._measured(stream, {stream: 0.04, block: 0.05}, {stream: 0.02, block: 0.021, dense: 0.03})
    assert text == "measured 0.040 ms, block_stream 1.25x, dense 1.50x"


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_dense_network_is_tuned_too(compiler: Compiler, batch_size: int) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.Flatten(), nn.Linear(1568, 9)
    )
    artifact = compiler.artifact(module, (3, 9, 9), batch_size, tune=True)
    result = load(artifact.folder).run({"input": np.load(artifact.folder / "golden/inputs.npy")})["output"]
    expected = np.load(artifact.folder / "golden/outputs.npy")
    assert np.abs(result - expected).max() < 1e-5 * np.abs(expected).max()


def test_weights_that_are_not_aligned_are_refused(tmp_path: Path) -> None:
    plan, isa = plan_of(two_layers(), (3, 13, 11)), isa_for("native")
    version = {name: ranked[0] for name, ranked in options(plan, isa, L1).items()}
    source = emit(plan, version, isa)
    with Builder(isa) as builder:
        library = open_library(builder.library(source, tmp_path / "library.so"))
    content = aligned(bytes(16) + source.weights())[16:]
    error = ctypes.create_string_buffer(256)
    assert not library.st3_open(content.ctypes.data, content.size, 1, error, len(error))
    assert b"multiple of 64" in error.value


def test_what_was_measured_is_not_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(two_layers(), (3, 13, 11))
    _, first = tuned(plan)

    def never(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(tune.Tuner, "measure", never)
    assert tuned(plan)[1] == first
    with pytest.raises(AssertionError, match="measured again"):
        tuned(plan, threads=2)  # other threads, another question


def test_blocked_and_scattered_weights_of_one_size_are_two_questions() -> None:
    isa = isa_for("native")
    keys, densities = [], []
    for block in (1, 4):
        torch.manual_seed(0)
        conv = nn.Conv2d(16, 8, 1)
        with torch.no_grad():
            # 64 of 128 weights both times, in full blocks of 4 output channels or in every second channel
            kept = torch.zeros_like(conv.weight)
            if block == 4:
                kept[:, ::2] = 1
            else:
                kept[::2] = 1
            conv.weight.mul_(kept)
        plan = plan_of(conv, (16, 9, 9))
        (step,) = plan.convolutions().values()
        keys.append(tuning_cache.key(plan, step, isa, 1))
        densities.append(int(torch.count_nonzero(conv.weight)))
    assert densities[0] == densities[1]
    assert keys[0] != keys[1]


def test_a_joined_layer_is_another_question_than_the_same_layer_apart() -> None:
    joined, isa = plan_of(pointwise_chain(), (3, 40, 80)), isa_for("native")
    assert joined.paired()
    for name, step in joined.convolutions().items():
        same = tuning_cache.key(joined, step, isa, 1) == tuning_cache.key(without_joins(joined), step, isa, 1)
        assert same == (name not in joined.paired())


def test_a_remembered_choice_tells_the_layers_own_density() -> None:
    reasons = []
    for extra in (0, 1):
        torch.manual_seed(0)
        conv = nn.Conv2d(32, 32, 1)
        with torch.no_grad():
            order = torch.randperm(1024, generator=torch.Generator().manual_seed(1))
            conv.weight.reshape(-1)[order[512 + extra :]] = 0
        _, chosen = tuned(plan_of(conv, (32, 9, 9)))
        reasons += [schedule.reason for schedule in chosen.values()]
    assert len(tuning_cache.read().schedules) == 1  # so near in density that one measurement serves both
    assert reasons[0].startswith("density 0.500")
    assert reasons[1].startswith("density 0.501")


def test_a_damaged_memory_is_none(tmp_path: Path) -> None:
    path = tuning_cache.cache_file()
    path.parent.mkdir(parents=True)
    path.write_bytes(b'{"schedules": {"a": 3}}')
    assert tuning_cache.read() == tuning_cache.Known()
    tuning_cache.write(tuning_cache.Known({}, {"pair": True}))
    assert tuning_cache.read().joins == {"pair": True}


def test_a_memory_that_cannot_be_written_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    tuning_cache.write(tuning_cache.Known({}, {"pair": True}))
    assert tuning_cache.read() == tuning_cache.Known()


def test_every_candidate_of_the_first_codes_computes_the_same(tmp_path: Path) -> None:
    module, shape = small_network(), (3, 20, 18)
    prune_randomly(module, 0.4)
    isa = isa_for("native")
    plan = without_joins(plan_of(module, shape))
    with Builder(isa) as builder:
        tuner = tune.Tuner(plan, options(plan, isa, L1), builder, 1, Packs())
        groups = [[emit(plan, version, isa) for version in group] for group in tuner.versions()[:3]]
        libraries = [open_library(builder.library(group[0], tmp_path / f"{i}.so")) for i, group in enumerate(groups)]
    inputs = np.random.default_rng(1).standard_normal((1, *shape)).astype(np.float32)
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(inputs)).numpy()
    for library, group in zip(libraries, groups, strict=True):
        for source in group:
            weights = aligned(source.weights())
            handle = library.st3_open(weights.ctypes.data, weights.size, 2, None, 0)
            result = np.empty_like(expected)
            assert library.st3_run(handle, inputs.ctypes.data, pointers([result])) == 0
            library.st3_close(handle)
            assert np.abs(result - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("threads", [1, 3])
def test_joined_layers_compute_what_they_do_apart(tmp_path: Path, threads: int) -> None:
    module, shape = pointwise_chain(), (3, 40, 80)
    isa = isa_for("native")
    joined = plan_of(module, shape)
    assert len(joined.joined) == 1
    results = []
    inputs = np.random.default_rng(1).standard_normal((1, *shape)).astype(np.float32)
    schedules = {name: ranked[0] for name, ranked in options(joined, isa, L1).items()}
    for index, plan in enumerate((joined, without_joins(joined))):
        source = emit(plan, schedules, isa)
        with Builder(isa) as builder:
            library = open_library(builder.library(source, tmp_path / f"{index}.so"))
        weights = aligned(source.weights())
        handle = library.st3_open(weights.ctypes.data, weights.size, threads, None, 0)
        result = np.empty((1, *plan.graph.shapes[plan.graph.output]), np.float32)
        for _ in range(5):
            assert library.st3_run(handle, inputs.ctypes.data, pointers([result])) == 0
        library.st3_close(handle)
        results.append(result)
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(inputs)).numpy()
    assert np.array_equal(results[0], results[1])
    assert np.abs(results[0] - expected).max() < 1e-5 * np.abs(expected).max()


def test_each_instruction_set_has_candidates_that_fit_its_registers() -> None:
    for isa in ISAS.values():
        plan = choose_plan(simplify(read_graph(capture_module(two_layers(), (3, 13, 11), 1))), 1, isa, L2)
        for ranked in options(plan, isa, L1).values():
            assert ranked
            assert ranked == sorted(ranked, key=lambda option: option.cycles)


def test_the_dense_kernel_is_always_among_what_is_tried() -> None:
    plan = plan_of(two_layers(), (3, 13, 11))
    one = next(iter(options(plan, isa_for("native"), L1).values()))[0]
    streams = [[msgspec.structs.replace(one, format="offset_stream", tile_columns=width)] for width in range(1, 10)]
    dense = [msgspec.structs.replace(one, format="dense")]
    assert tune._tried([*streams, dense]) == [*streams[: tune._CODES - 1], dense]
    assert tune._tried([dense, *streams]) == [dense, *streams[: tune._CODES - 1]]
    assert tune._tried(streams) == streams[: tune._CODES]


def test_packed_weights_are_remembered_while_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    ones, taps, cut = np.ones((4, 8, 1, 1), np.float32), Taps(8, 1, 64, 64, 64, 64), Cut(8, block=4)
    packs = Packs()
    assert packs.pack("dense", ones, taps, cut) is packs.pack("dense", ones, taps, cut)
    monkeypatch.setattr(weights, "_REMEMBERED", 100)
    packs = Packs()
    first, second = (packs.pack("dense", ones, taps, cut) for _ in range(2))
    assert first is not second
    assert np.array_equal(first.matrix, second.matrix)
