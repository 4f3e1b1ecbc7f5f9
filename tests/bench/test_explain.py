"""``st3 explain``: the bound is arithmetic, the rules say what they mean, and an artifact's layers are timed."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from click.testing import CliRunner
from support import write_checkpoint

from bench.explain import explanation
from bench.explain.advice import Case, advise
from bench.explain.command import explain
from bench.explain.explanation import explain_artifact, find_layer
from bench.explain.roofline import Bound, bound, moved_bytes, positions, usable_macs
from bench.machine.speed import Speed, Speeds
from compile.lower import lower
from runtime.artifact import LayerEntry, Target, open_artifact
from runtime.errors import UserError
from runtime.manifest import ORDERED

SPEED = Speed(1, {"registers": 100.0}, {"L2": 50.0, "DRAM": 5.0})
CPU = Target("cpu", "avx512", "float32", 1, 1)
GPU = Target("cuda", "sm_90", "float16", 32, 1)


def entry(density: float = 0.1, form: str = "offset_stream", **changes: object) -> LayerEntry:
    """64 to 64 channels, 3x3, on 100 pixels."""
    weights = 64 * 64 * 9
    made = LayerEntry(
        name="layer1.conv",
        op="conv2d",
        weight_shape=(64, 64, 3, 3),
        pattern="unstructured",
        nonzeros=round(density * weights),
        density=density,
        macs_dense=weights * 100,
        macs_nonzero=round(density * weights) * 100,
        format=form,
        reason="",
    )
    return msgspec.structs.replace(made, **changes)


def heads(case: Case) -> list[str]:
    return [text.partition(": ")[0] for text in advise(case)]


def native(layer: LayerEntry, **known: object) -> Case:
    return Case(layer, CPU, "native", **known)


def test_a_stream_executes_what_is_not_zero_and_dense_everything() -> None:
    assert usable_macs(entry()) == entry().macs_nonzero
    assert usable_macs(entry(form="dense")) == entry().macs_dense
    assert usable_macs(entry(macs_usable=7)) == 7
    assert positions(entry()) == 100


def test_the_bound_is_the_longer_of_multiplying_and_moving() -> None:
    layer = entry(form="dense")
    found = bound(layer, batch_size=2, speed=SPEED, last_cache_bytes=2**30)
    assert found.compute_us == pytest.approx(2 * 64 * 64 * 9 * 100 * 2 / 100e9 * 1e6)
    assert found.bytes == 4 * (64 * 64 * 9 + 2 * 100 * 128)
    assert found.memory_us == pytest.approx(found.bytes / 50e9 * 1e6)
    assert (found.place, found.waits_for_memory, found.us) == ("L2", False, found.compute_us)
    far = bound(layer, batch_size=2, speed=SPEED, last_cache_bytes=1000)
    assert (far.place, far.memory_us) == ("DRAM", pytest.approx(10 * found.memory_us))
    assert found.intensity == pytest.approx(2 * layer.macs_dense * 2 / found.bytes)
    # a value of 4 bytes and an offset of 2 for each weight that is left
    assert moved_bytes(entry(), 1) == round(entry().nonzeros * 6 + 4 * 100 * 128)


def test_half_precision_has_a_peak_of_its_own_half_the_bytes_and_twice_the_lanes() -> None:
    speed = msgspec.structs.replace(SPEED, gflops=SPEED.gflops | {"float16-registers": 200.0})
    whole, half = (bound(entry(), 2, speed, 2**30, dtype) for dtype in ("float32", "float16"))
    assert half.compute_us == whole.compute_us / 2
    assert half.bytes == moved_bytes(entry(), 2, "float16") == round(entry().nonzeros * 4 + 2 * 2 * 100 * 128)
    narrow = native(entry())
    wide = msgspec.structs.replace(narrow, target=msgspec.structs.replace(CPU, dtype="float16"))
    assert (narrow.lanes, wide.lanes) == (16, 32)


@pytest.mark.parametrize(
    ("case", "first"),
    [
        (native(entry(), share=0.001), "leave it"),
        (native(entry(density=1.0, form="dense")), "prune it"),
        (native(entry(density=0.85, form="dense")), "a higher sparsity"),
        (Case(entry(density=0.1, form="dense"), CPU, "onnxruntime"), "--backend native"),
        (native(entry(weight_shape=(64, 1, 3, 3))), "more zeros help little"),
        (native(entry(density=0.01)), "more zeros help little"),
        (native(entry(), bound=Bound(1.0, 2.0, 100, "L2", 0.5)), "fewer bytes, not fewer multiply-adds"),
        (native(entry(), bound=Bound(2.0, 1.0, 100, "L2", 9.0), measured_us=2.4), "only less work"),
        (native(entry()), "blocks of 4 channels (--pattern 1x4)"),
        (native(entry(form="block_stream", macs_dense=64 * 64 * 9 * 49)), "a larger batch (--batch-size 16)"),
        (native(entry(form="block_stream", macs_dense=64 * 64 * 9 * 64)), "less work"),
        (Case(entry(form="dense"), GPU, "inductor"), "the pattern 2:4 (--pattern 2:4)"),
        (Case(entry(form="dense", pattern="2:4", weight_shape=(10, 64, 3, 3)), GPU, "inductor"), None),
        (Case(entry(form="dense", reason=f"measured; {ORDERED}", weight_shape=(10, 64, 3, 3)), GPU, "inductor"), None),
        (Case(entry(form="semi_structured", pattern="2:4"), GPU, "inductor"), "less work"),
    ],
)
def test_the_first_advice(case: Case, first: str | None) -> None:
    found = heads(case)
    assert found[0] == (first or "input channels in multiples of 8 and outputs of 16")


def test_a_slow_layer_is_not_called_near_its_bound() -> None:
    assert "only less work" not in heads(native(entry(), bound=Bound(2.0, 1.0, 100, "L2", 9.0), measured_us=4.0))


def test_channels_that_do_not_fill_their_vectors_are_named() -> None:
    case = native(entry(density=1.0, form="dense_channels", weight_shape=(24, 64, 3, 3)))
    assert any(text.startswith("output channels in multiples of 16: 24 fill 75%") for text in advise(case))


def test_an_unknown_layer_is_refused_with_names_like_it() -> None:
    layers = [entry(name=f"stage{i}.conv{j}") for i in range(3) for j in range(3)]
    with pytest.raises(UserError, match=r"no layer 'stage1.cnv2'; did you mean stage1.conv2, .* and 4 others"):
        find_layer(layers, "stage1.cnv2")
    with pytest.raises(UserError, match=r"did you mean stage0\.conv0"):
        find_layer(layers, "?")
    assert find_layer(layers, "stage2.conv0").name == "stage2.conv0"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explain")
    checkpoint = write_checkpoint(folder / "st3-unstructured-0.9", "st3", 0.9)
    return lower(checkpoint, folder / "artifacts", "native", (2,), 1, "native")


@pytest.fixture(autouse=True)
def known_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is arithmetic; how fast this machine is has tests of its own."""
    monkeypatch.setattr(explanation, "known_or_measured", lambda _: Speeds((SPEED,), "today", 0.5))


def run(*arguments: object) -> str:
    done = CliRunner().invoke(explain, [str(word) for word in arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_every_layer_of_an_artifact_is_timed(artifact: Path) -> None:
    layers = open_artifact(artifact).manifest.layers
    found = json.loads(run(artifact, "--json"))
    assert [one["layer"]["name"] for one in found["layers"]] == [layer.name for layer in layers]
    assert all(one["measured_us"] > 0 and one["bound"]["compute_us"] > 0 and one["advice"] for one in found["layers"])
    own = [one for one in found["layers"] if not one["shares_step_with"]]
    assert 0 < sum(one["share"] for one in own) < 1  # steps without weights take time, too
    for one in own:
        flops = 2 * one["layer"]["macs_nonzero"] * 2  # two pictures
        assert one["gflops"] == pytest.approx(flops / one["measured_us"] / 1e3)
    text = run(artifact)
    assert all(layer.name in text for layer in layers)


def test_one_layer_is_explained_in_words(artifact: Path) -> None:
    layer = open_artifact(artifact).manifest.layers[1]
    text = run(artifact, layer.name)
    for word in (layer.name, layer.format, "density", "roofline bound", "measured", "advice", "at load 0.50"):
        assert word in text


def test_without_measuring_and_without_a_bound_the_notes_say_why(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explanation, "known_or_measured", lambda _: Speeds(note="no compiler; install g++"))
    found = json.loads(run(artifact, "--no-measure", "--json"))
    assert all(one["measured_us"] is None and one["bound"] is None for one in found["layers"])
    assert found["notes"] == [
        "nothing was measured (--no-measure)",
        "the bound is not known: no compiler; install g++",
    ]
    assert "no compiler; install g++" in run(artifact, "--no-measure")


def test_an_engine_without_steps_is_said_so(artifact: Path) -> None:
    opened = open_artifact(artifact)
    other = msgspec.structs.replace(opened.manifest, engine="onnxruntime")
    found = explain_artifact(msgspec.structs.replace(opened, manifest=other), None, "fc", measure=True)
    assert found.layers[0].measured_us is None
    assert found.notes[0] == "the engine onnxruntime does not time its steps; native does"


def test_more_threads_than_there_are_have_no_bound(artifact: Path) -> None:
    found = explain_artifact(open_artifact(artifact), 64, "fc", measure=False)
    assert found.notes[1] == "the bound is not known: this machine has not 64 CPUs for as many threads"


def test_more_threads_than_cpus_are_not_timed(tmp_path: Path) -> None:
    manifest = SimpleNamespace(engine="native")
    steps, (note,) = explanation._steps(SimpleNamespace(manifest=manifest, folder=tmp_path), 1000)  # type: ignore[arg-type]
    assert steps == {}
    assert note.startswith("not measured: 1000 threads on ")
