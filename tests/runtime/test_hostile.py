"""What somebody who means harm could put into an artifact's folder is refused with one line."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from runtime import files
from runtime.artifact import MANIFEST
from runtime.engine import load
from runtime.errors import ArtifactError
from runtime.strict_json import LIMIT_BYTES

ROOT = Path(__file__).resolve().parents[2]
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
LIBRARY = "payload/b2/network.so"


def refused(folder: Path, message: str, verify: bool = True) -> None:
    with pytest.raises(ArtifactError, match=message) as caught:
        load(folder, verify=verify)
    assert "\n" not in str(caught.value)


def rewrite(folder: Path, change: Callable[[str], str]) -> None:
    path = folder / MANIFEST
    path.write_text(change(path.read_text()))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"relative": 0.0001', '"relative": NaN', "damaged.*malformed"),
        ('"relative": 0.0001', '"relative": Infinity', "damaged.*malformed"),
        ('"relative": 0.0001', '"relative": 1e999', "damaged.*out of range"),
        ('"threads": 1', '"threads": 1, "threads": 2', "damaged.*key 'threads' stands there twice"),
        ('{\n  "schema', '{"schema_version": 1, "schema', "damaged.*key 'schema_version' stands there twice"),
        ('"threads": 1', '"threads": 100000', "damaged.*<= 1024"),
        ('"size_bytes": ', '"size_bytes": -', "damaged.*>= 0"),
        ('"size_bytes": ', '"size_bytes": 999999999999999999', "damaged"),
        ('"shape": [\n      2,', '"shape": [\n      -2,', "damaged.*>= 1"),
        ('"shape": [\n      2,', '"shape": [\n      4294967296,', "damaged.*<= 2147483648"),
        ('"dtype": "float32"\n  },\n  "output"', '"dtype": "object"\n  },\n  "output"', "damaged.*inputs and outputs"),
        ('"classes": []', '"classes": ' + "[" * 200_000, "damaged.*nested too deeply"),
        ('"name": ', '"name": "\\ud800", "x": ', "damaged"),
        ("payload/b2/network.so", "payload/./network.so", "outside the artifact"),
        ("payload/b2/network.so", "payload/b2/\\u0000", "outside the artifact"),
        ("payload/b2/network.so", "payload/b2/\\u001b[2J", "outside the artifact"),
        ("payload/b2/network.so", "payload//network.so", "outside the artifact"),
        ("payload/b2/network.so", "payload/b2/" + "x" * 300, "outside the artifact"),
        ('"engine": "native"', '"engine": "../../evil"', "engine '../../evil'"),
    ],
)
def test_manifests(artifact: Path, old: str, new: str, message: str) -> None:
    assert old in (artifact / MANIFEST).read_text()
    rewrite(artifact, lambda text: text.replace(old, new, 1))
    refused(artifact, message)


def test_a_manifest_without_end(artifact: Path) -> None:
    rewrite(artifact, lambda text: text + " " * LIMIT_BYTES)
    refused(artifact, "damaged.*at most 4,194,304 are read")


def test_shapes_that_the_golden_files_do_not_have(artifact: Path) -> None:
    before = json.loads((artifact / MANIFEST).read_text())
    for end, shape in (("input", [2, 1, 4, 4]), ("input", [2, 1, 16, 4]), ("output", [2, 1]), ("output", [2, 1 << 30])):
        data = json.loads(json.dumps(before))
        data[end]["shape"] = shape
        (artifact / MANIFEST).write_text(json.dumps(data))
        refused(artifact, "the manifest says float32|damaged")


def test_a_library_for_other_shapes_is_refused_by_what_it_says_itself(artifact: Path) -> None:
    """As if somebody had written golden files of other shapes too."""
    data = json.loads((artifact / MANIFEST).read_text())
    data["input"]["shape"] = [2, 1, 4, 4]
    np.save(artifact / "golden/inputs.npy", np.zeros((2, 1, 4, 4), np.float32))
    data["files"]["golden/inputs.npy"]["size_bytes"] = (artifact / "golden/inputs.npy").stat().st_size
    (artifact / MANIFEST).write_text(json.dumps(data))
    refused(artifact, r"compiled for 128 numbers of 'input', the manifest says \(2, 1, 4, 4\)", verify=False)


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.symlink_to("/dev/zero"), "is a symbolic link"),
        (lambda path: path.symlink_to(path.with_name("weights.bin")), "is a symbolic link"),
        (lambda path: os.mkfifo(path), "is no plain file"),
        (lambda path: path.mkdir(), "is no plain file"),
        (lambda path: subprocess.run(["mknod", path, "c", "1", "5"], check=True), "is no plain file"),
    ],
)
def test_what_is_no_file(artifact: Path, make: Callable[[Path], None], message: str, verify: bool) -> None:
    path = artifact / LIBRARY
    path.unlink()
    try:
        make(path)
    except subprocess.CalledProcessError:
        pytest.skip("this user may make no device")
    refused(artifact, message, verify)


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("name", ["payload", "payload/b2", "golden"])
def test_folders_that_are_links(artifact: Path, tmp_path: Path, name: str, verify: bool) -> None:
    (artifact / name).rename(tmp_path / "elsewhere")
    (artifact / name).symlink_to(tmp_path / "elsewhere")
    refused(artifact, "is a symbolic link", verify)


def test_a_manifest_that_is_a_link_or_a_pipe(artifact: Path) -> None:
    path = artifact / MANIFEST
    path.rename(artifact / "real.json")
    path.symlink_to("real.json")
    refused(artifact, "is no artifact")
    path.unlink()
    os.mkfifo(path)
    refused(artifact, "is no artifact")


def test_files_that_the_manifest_does_not_know(artifact: Path) -> None:
    (artifact / "notes.txt").write_text("beside the payload it may lie")
    load(artifact).close()
    (artifact / "payload/b2/libevil.so").write_bytes(b"x")
    refused(artifact, r"libevil\.so is not in manifest\.json, and an engine might load it")


def test_what_takes_a_file_s_place_after_it_was_looked_at(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (artifact / LIBRARY).unlink()
    os.mkfifo(artifact / LIBRARY)
    monkeypatch.setattr(files, "_refuse", lambda *_: None)
    for verify in (True, False):
        refused(artifact, "is no plain file", verify)


def test_a_file_that_grows_while_it_is_read(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, reads = artifact / LIBRARY, []
    size, digest = path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()

    def slow_read(handle: int, count: int, read: Callable[[int, int], bytes] = os.read) -> bytes:
        reads.append(count)
        assert len(reads) < 100
        with path.open("ab") as stream:
            stream.write(bytes(count))
        return read(handle, count)

    monkeypatch.setattr(os, "read", slow_read)
    files.compare(artifact, LIBRARY, size, digest)


def test_another_name_of_a_demanded_file_changes_nothing_any_more(artifact: Path, tmp_path: Path) -> None:
    digest = f"sha256:{hashlib.sha256((artifact / MANIFEST).read_bytes()).hexdigest()}"
    names = [LIBRARY, "payload/b2/weights.bin"]
    for number, name in enumerate(names):
        os.link(artifact / name, tmp_path / str(number))
    engine = load(artifact, require_digest=digest)
    inputs = {"input": np.ones((2, 1, 8, 8), np.float32)}
    before = engine.run(inputs)["output"].copy()
    for number in range(len(names)):
        with (tmp_path / str(number)).open("r+b") as stream:
            stream.write(bytes(4096))
    assert np.array_equal(engine.run(inputs)["output"], before)
    engine.close()
    with pytest.raises(ArtifactError, match="differs from its digest"):
        load(artifact)


def test_a_name_that_only_looks_the_same(artifact: Path) -> None:
    twin = LIBRARY.replace("e", "\u0435")  # Cyrillic
    (artifact / LIBRARY).rename(artifact / twin)
    rewrite(artifact, lambda text: text.replace(LIBRARY, twin))
    refused(artifact, "does not list payload/b2/network.so")
    shutil.copy(artifact / twin, artifact / LIBRARY)
    refused(artifact, "network.so is not in manifest.json")


def test_a_library_of_another_processor_or_byte_order(artifact: Path) -> None:
    path = artifact / LIBRARY
    raw = path.read_bytes()
    for at, value in ((18, 0xB7), (5, 2), (4, 1)):  # aarch64's e_machine, big-endian, 32 bits
        path.write_bytes(raw[:at] + bytes([value]) + raw[at + 1 :])
        refused(artifact, r"network\.so cannot be loaded \(", verify=False)


def test_weights_of_the_other_byte_order(artifact: Path) -> None:
    path = artifact / "payload/b2/weights.bin"
    raw = path.read_bytes()
    path.write_bytes(raw[:16] + raw[16:24][::-1] + raw[24:])
    refused(artifact, "does not belong to this library", verify=False)
    path.write_bytes(raw[:8][::-1] + raw[8:])
    refused(artifact, "is no weight file", verify=False)


def test_nothing_in_the_code_unpickles() -> None:
    """``np.load`` is told so, ``torch.load`` too, and no module knows pickle or its relatives."""
    found = []
    folders = ("st3", "train", "compile", "runtime", "bench")
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            # of pickle itself the name of its error may be known
            allowed = {"pickle"} if isinstance(node, ast.Import) else set()
            if {name.split(".")[0] for name in names} & (PICKLES - allowed):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno} imports {names}")
            if (
                isinstance(node, ast.Attribute)
                and ast.unparse(node.value) == "pickle"
                and node.attr != "UnpicklingError"
            ):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)}")
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                options = {word.arg: ast.unparse(word.value) for word in node.keywords}
                call = ast.unparse(node.func)
                unsafe = (call in ("np.load", "numpy.load") and options.get("allow_pickle", "False") != "False") or (
                    call == "torch.load" and options.get("weights_only") != "True"
                )
                if unsafe:
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)}")
    assert not found


def test_messages_are_one_line_whatever_they_quote() -> None:
    assert str(ArtifactError("a\nb\x1b[2J\x9b")) == "a b [2J "
