"""What goes wrong around a native artifact gives one clear error and never a crash."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from support import Compiler, prune_randomly
from torch import nn

from runtime.artifact import list_files, open_artifact, write_manifest
from runtime.engine import load
from runtime.errors import ArtifactError

ROOT = Path(__file__).resolve().parents[2]
SHAPE = (1, 64, 64)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each of the two sizes needs more than 2 MB for its tensors."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 256, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Compiler(tmp_path_factory.mktemp("large")).artifact(prune_randomly(module, 0.3), SHAPE, (1, 16)).folder


@pytest.fixture
def copy(large: Path) -> Iterator[Path]:
    """A copy that a test may damage, in a folder that any user may enter."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        subprocess.run(["cp", "-r", str(large), f"{folder}/artifact"], check=True)
        yield Path(folder) / "artifact"


def sign(folder: Path) -> None:
    """Make the manifest agree with the damage, as somebody who knows the format could."""
    manifest = open_artifact_unchecked(folder)
    write_manifest(folder, msgspec.structs.replace(manifest, files=list_files(folder)))


def open_artifact_unchecked(folder: Path):
    from runtime.artifact import MANIFEST, Manifest

    return msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)


@contextmanager
def as_a_user_without_rights() -> Iterator[None]:
    """Root reads everything, so root becomes nobody for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("length", [0, 7, 24, 64, 4096, -64, -1])
def test_truncated_weights_whose_manifest_agrees(copy: Path, length: int) -> None:
    weights = copy / "payload/b1/weights.bin"
    raw = weights.read_bytes()
    weights.write_bytes(raw[:length] if len(raw) > length else raw[: len(raw) // 2])
    sign(copy)
    with pytest.raises(ArtifactError, match=r"weights\.bin cannot be read|does not belong to this library"):
        load(copy)


@pytest.mark.parametrize("name", ["network.so", "weights.bin"])
def test_files_of_two_batch_sizes_swapped(copy: Path, name: str) -> None:
    one, other = copy / "payload/b1" / name, copy / "payload/b16" / name
    for source, target in ((one, copy / "x"), (other, one), (copy / "x", other)):
        source.rename(target)
    with pytest.raises(ArtifactError, match="manifest"):
        load(copy)
    sign(copy)
    with pytest.raises(ArtifactError, match="does not belong to this library"):
        load(copy)


def test_wrong_weights_of_a_size_that_is_opened_late(copy: Path) -> None:
    weights = copy / "payload/b16/weights.bin"
    raw = bytearray(weights.read_bytes())
    raw[8] ^= 1  # the content number
    weights.write_bytes(raw)
    sign(copy)
    engine = load(copy)
    one = np.ones((1, *SHAPE), np.float32)
    expected = engine.run({"input": one})["output"]
    with pytest.raises(ArtifactError, match=r"b16/network\.so cannot be opened: .*does not belong"):
        engine.run({"input": np.ones((16, *SHAPE), np.float32)})
    # the size that is whole still works
    assert np.array_equal(engine.run({"input": one})["output"], expected)


@pytest.mark.parametrize("name", ["manifest.json", "payload/b1/weights.bin", "payload/b16/network.so", "payload"])
def test_files_that_this_user_may_not_read(copy: Path, name: str) -> None:
    path = copy / name
    before = path.stat().st_mode
    path.chmod(0)
    try:
        for verify in (True, False):
            with as_a_user_without_rights(), pytest.raises(ArtifactError, match=r"cannot be (read|loaded) \(.*denied"):
                load(copy, verify=verify)
    finally:
        path.chmod(before)


LIMITED = """
import resource, sys
import numpy as np
import runtime, runtime.engines.native
from pathlib import Path

def limit():
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * resource.getpagesize() + free
    resource.setrlimit(resource.RLIMIT_AS, (size, size))

folder, when, free, threads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
inputs = {n: np.ones((n, 1, 64, 64), np.float32) for n in (1, 16)}
try:
    if when == "before":
        limit()
    engine = runtime.load(folder, threads, verify=False)
    if when == "after":
        limit()
    for size in (1, 16, 1):
        try:
            print(size, engine.run({"input": inputs[size]})["output"].shape)
        except runtime.ArtifactError as error:
            print(size, error)
except runtime.ArtifactError as error:
    print("load", error)
"""


def limited(folder: Path, when: str, free_bytes: int, threads: int = 1) -> list[str]:
    """What a process that may take so many bytes more, from before or after loading, says of batches of 1, 16, 1."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(folder), when, str(free_bytes), str(threads)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="limits the address space as Linux counts it")
MB = 1 << 20


@needs_linux
def test_too_little_memory_for_a_size_leaves_the_others_usable(large: Path) -> None:
    good = "1 (1, 256)"
    assert limited(large, "after", 64 * MB) == [good, "16 (16, 256)", good]
    first, second, third = limited(large, "after", MB)
    assert first == third == good
    assert second.startswith("16 ")
    assert second.endswith("payload/b16/network.so cannot be opened: not enough memory or threads")


@needs_linux
def test_too_little_memory_to_load(large: Path) -> None:
    (line,) = limited(large, "before", 2 * MB)
    assert line.startswith("load ")
    assert line.endswith("payload/b1/network.so cannot be opened: not enough memory or threads")


@needs_linux
def test_too_many_threads_for_the_address_space(large: Path) -> None:
    (line,) = limited(large, "before", 64 * MB, threads=64)
    assert line.endswith("payload/b1/network.so cannot be opened: not enough memory or threads")


def test_a_whole_artifact_still_opens(copy: Path) -> None:
    assert open_artifact(copy).manifest.target.sizes == (1, 16)
    with as_a_user_without_rights():
        assert load(copy).run({"input": np.ones((3, *SHAPE), np.float32)})["output"].shape == (3, 256)
