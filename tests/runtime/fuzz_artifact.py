"""Damages artifacts and checkpoints in every way it can think of; run in a process of its own, whose memory is limited.

    python tests/runtime/fuzz_artifact.py artifact 10000        # or checkpoint, or atheris

Whatever it does, the answer must be right or one line of a ``UserError``, within seconds and within 1 GiB.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from runtime.check import replay
from runtime.data import load_evaluation_set
from runtime.engine import load
from runtime.errors import UserError
from runtime.onnx_guard import refuse_outside

SAMPLES = Path(__file__).parent / "schemas"
SECONDS = 30
MORE_BYTES = 1 << 30
COUNTS = {"cases": 0, "refused": 0}

HOSTILE: list[Any] = [
    None, True, False, 0, 1, -1, 2, 7, 1 << 31, 1 << 53, 1 << 63, 10**30, -(10**30), 0.5, 1e308, "", "x", "..", "../..",
    "/", "/etc/passwd", "\0", "\x1b[2J\n", "\ud800", "a" * 5000, "native", "onnxruntime", "inductor", "tensorrt",
    "sm_90", "openvino", "cuda", "cpu", "sha256", [], {}, [0], [-1], [1 << 40] * 4, [1] * 9, [2, 1, 8, 8], [2, 1, 4, 4],
    ["x"], [2, 1, 16, 16], [1, 1, 8, 8], [4096, 4096, 4096], [[[[[]]]]], {"a": {"a": {}}},
    {"payload/x": {"size_bytes": 0}},
]  # fmt: skip
RAW = [
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"1e999",
    b"-0",
    b"01",
    b"9" * 5000,
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"\xff",
]

Draw = Callable[[Any], Any]

SETTINGS: dict[str, Any] = {
    "deadline": None,
    "database": None,
    "suppress_health_check": list(HealthCheck),
    "phases": [Phase.generate, Phase.shrink],
}


def paths(node: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON document but the whole."""
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [place for key, value in inner for place in ((*at, key), *paths(value, (*at, key)))]


def change_tree(draw: Draw, tree: Any) -> bytes:
    """A JSON document with one to three places replaced, taken out, doubled or made something JSON has no word for."""
    tree = copy.deepcopy(tree)
    raw: list[bytes] = []
    for _ in range(draw(st.integers(1, 3))):
        *parents, key = draw(st.sampled_from(paths(tree) or [("x",)]))
        node = tree
        for parent in parents:
            node = node[parent]
        how = draw(st.sampled_from(["replace", "replace", "delete", "rename", "raw", "tweak"]))
        if how == "delete" and not isinstance(node, str):
            del node[key]
        elif how == "rename" and isinstance(node, dict):
            node[draw(st.sampled_from(["x", "", "..", "payload/b1/../b2/network.so", "payload//x", *node]))] = node.pop(
                key
            )
        elif how == "raw":
            raw.append(draw(st.sampled_from(RAW)))
            node[key] = f"@@{len(raw) - 1}@@"
        elif how == "tweak" and isinstance(node[key], (int, float)):
            node[key] = node[key] + draw(st.sampled_from([-1, 1, 0.5, 1 << 20]))
        else:
            value = draw(st.sampled_from(HOSTILE) | st.text(max_size=20) | st.integers() | st.floats())
            node[key] = copy.deepcopy(value)  # the next change may be one of this value
    text = json.dumps(tree).encode()
    for index, literal in enumerate(raw):
        text = text.replace(f'"@@{index}@@"'.encode(), literal)
    if draw(st.integers(0, 9)) == 0:  # a key twice
        text = b'{"schema_version": 1, ' + text[1:]
    return text


def change_bytes(draw: Draw, raw: bytes) -> bytes:
    """Bytes flipped, cut out, put in, cut off."""
    changed = bytearray(raw)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(changed) - 1)))
        how = draw(st.sampled_from(["flip", "cut", "insert", "end", "double"]))
        if how == "flip" and changed:
            changed[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "cut":
            del changed[at : at + draw(st.integers(1, 64))]
        elif how == "insert":
            changed[at:at] = draw(st.binary(min_size=1, max_size=16))
        elif how == "end":
            del changed[at:]
        else:
            changed[at:at] = changed[at : at + 64]
    return bytes(changed)


def change_file(draw: Draw, path: Path, folder: Path) -> None:
    """One file changed, or something else in its place."""
    how = draw(
        st.sampled_from(["bytes", "bytes", "bytes", "gone", "empty", "link", "pipe", "folder", "linked", "more"])
    )
    raw = path.read_bytes()
    if how == "bytes":
        path.write_bytes(change_bytes(draw, raw))
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "more":
        path.with_name("more.so").write_bytes(b"x")
    elif how == "linked" and path.parent != folder:
        path.parent.rename(folder.parent / "elsewhere")
        path.parent.symlink_to(folder.parent / "elsewhere")
    else:
        path.unlink()
        if how == "link":
            path.symlink_to(draw(st.sampled_from(["/etc/passwd", "/dev/zero", "/dev/stdin", ".", "manifest.json"])))
        elif how == "pipe":
            os.mkfifo(path)
        elif how == "folder":
            path.mkdir()


def sign_again(folder: Path, names: list[str]) -> None:
    """Let the manifest agree with the damage, as somebody who knows the format would."""
    path = folder / "manifest.json"
    data = json.loads(path.read_bytes())
    for name in names:
        if (folder / name).is_file() and not (folder / name).is_symlink():
            raw = (folder / name).read_bytes()
            data["files"][name] = {"sha256": hashlib.sha256(raw).hexdigest(), "size_bytes": len(raw)}
    path.write_text(json.dumps(data))


def guarded(action: Callable[[], object]) -> None:
    """Run it; whatever is no ``UserError`` of one line, or takes too long, ends the search."""
    COUNTS["cases"] += 1
    signal.alarm(SECONDS)
    try:
        action()
    except UserError as error:
        COUNTS["refused"] += 1
        line = str(error)
    else:
        line = ""
    finally:
        signal.alarm(0)
    assert "\n" not in line.strip(), repr(line)
    assert len(line) < 2000, line


def use(folder: Path) -> None:
    """All that a user does with an artifact."""
    engine = load(folder, threads=None)
    try:
        replay(engine)
        spec = engine.artifact.manifest.input
        engine.run({spec.name: np.zeros(spec.shape, np.float32)})
    finally:
        engine.close()


def damage(draw: Draw, place: Path) -> Callable[[], object]:
    """Damages a fresh copy of a sample in ``place``; what is then done with it."""
    kind = draw(st.sampled_from(["tree", "tree", "manifest", "file", "file", "golden", "signature", "onnx", "data"]))
    sample = SAMPLES / draw(st.sampled_from(["1/native", "2/native", "3/native", "3/onnxruntime"]))
    folder = Path(shutil.copytree(sample, place / "artifact"))
    path = folder / "manifest.json"
    if kind == "onnx":
        raw = change_bytes(draw, (SAMPLES / "3/onnxruntime/payload/model.onnx").read_bytes())
        return lambda: refuse_outside(folder / "model.onnx", memoryview(raw))
    if kind == "data":
        return evaluation(draw, folder)
    if kind == "tree":
        path.write_bytes(change_tree(draw, json.loads(path.read_bytes())))
    elif kind == "manifest":
        path.write_bytes(change_bytes(draw, path.read_bytes()))
    elif kind == "signature":
        (folder / "manifest.sig").write_bytes(draw(st.binary(max_size=80)))
    else:
        # code, and the weights that it relies on, are only changed behind the manifest's back: who writes the manifest
        # may run anything
        name = draw(
            st.sampled_from(["golden/inputs.npy", "golden/outputs.npy"] if kind == "golden" else listed(folder))
        )
        change_file(draw, folder / name, folder)
        if kind == "golden":
            sign_again(folder, [name])
    return lambda: use(folder)


def listed(folder: Path) -> list[str]:
    """The files of an artifact."""
    return sorted(json.loads((folder / "manifest.json").read_bytes())["files"])


def evaluation(draw: Draw, folder: Path) -> Callable[[], object]:
    """An evaluation set of which one file is damaged."""
    from runtime.data import Preprocessing, write_evaluation_set

    place = folder / "evaluation"
    images = np.zeros((3, 1, 4, 4), np.uint8)
    write_evaluation_set(place, "x", images, np.zeros(3, np.int64), Preprocessing((1, 4, 4), (0.5,), (0.5,)), ("a",))
    path = place / draw(st.sampled_from(["images.npy", "labels.npy", "evaluation.json"]))
    if path.suffix == ".json":
        path.write_bytes(change_tree(draw, json.loads(path.read_bytes())))
    else:
        change_file(draw, path, folder)
    return lambda: load_evaluation_set(place, verify=True)


def artifacts(examples: int) -> None:
    """Damaged artifacts, ONNX files and evaluation sets."""

    @settings(max_examples=examples, **SETTINGS)
    @given(st.data())
    def search(data: st.DataObject) -> None:
        with tempfile.TemporaryDirectory() as place:
            guarded(damage(data.draw, Path(place)))

    search()


def checkpoints(examples: int) -> None:
    """Damaged checkpoints, their digests made to agree half of the time."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from support import write_checkpoint

    import st3

    with tempfile.TemporaryDirectory() as first:
        sample = write_checkpoint(Path(first) / "sample", "st3", 0.9)

        @settings(max_examples=examples, **SETTINGS)
        @given(st.data())
        def search(data: st.DataObject) -> None:
            with tempfile.TemporaryDirectory() as place:
                folder = Path(shutil.copytree(sample, Path(place) / "checkpoint"))
                info = folder / "checkpoint.json"
                name = data.draw(st.sampled_from(["checkpoint.json", "weights.safetensors", "graph.pt2"]))
                if name == "checkpoint.json":
                    info.write_bytes(change_tree(data.draw, json.loads(info.read_bytes())))
                else:
                    raw = (folder / name).read_bytes()
                    if data.draw(st.booleans()):  # where the names, shapes and offsets are
                        (folder / name).write_bytes(change_bytes(data.draw, raw[:4096]) + raw[4096:])
                    else:
                        change_file(data.draw, folder / name, folder)
                    if (folder / name).is_file() and not (folder / name).is_symlink():
                        described = json.loads(info.read_bytes())
                        described["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
                        info.write_text(json.dumps(described))
                guarded(lambda: st3.load_checkpoint(folder).exported_program())

        search()


def with_atheris(examples: int) -> None:
    """Coverage-guided bytes into the manifest, the header of ``.npy`` and the walk over ONNX."""
    import atheris

    with atheris.instrument_imports(include=["runtime"], enable_loader_override=False):
        pass
    from runtime import manifest, npy, strict_json

    for function in (strict_json.decode, npy.header, refuse_outside, manifest.Manifest.__post_init__):
        atheris.instrument_func(function)

    def one(raw: bytes) -> None:
        COUNTS["cases"] += 1
        for action in (
            lambda: strict_json.decode(raw, manifest.Manifest),
            lambda: npy.header(raw),
            lambda: refuse_outside(Path("x"), memoryview(raw)),
        ):
            try:
                action()
            except (ValueError, UserError):
                COUNTS["refused"] += 1

    corpus = tempfile.mkdtemp()
    for index, path in enumerate(SAMPLES.rglob("*")):
        if path.is_file() and path.suffix in (".json", ".npy", ".onnx"):
            shutil.copy(path, f"{corpus}/{index}")
    atheris.Setup(
        [sys.argv[0], f"-runs={examples}", "-max_len=16384", "-rss_limit_mb=2048", "-verbosity=0", corpus], one
    )
    atheris.Fuzz()


def main() -> None:
    """See the file."""
    kind, examples = sys.argv[1], int(sys.argv[2])
    if kind == "atheris":
        with_atheris(examples)
        return
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError(f"took more than {SECONDS} s")))
    if kind == "checkpoint":
        import torch

        import st3  # noqa: F401 - loaded before its memory is counted

        torch.set_num_threads(1)
    else:
        import onnxruntime  # noqa: F401
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MORE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    {"artifact": artifacts, "checkpoint": checkpoints}[kind](examples)
    sys.stdout.write(
        json.dumps(COUNTS | {"max_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}) + "\n"
    )


if __name__ == "__main__":
    main()
