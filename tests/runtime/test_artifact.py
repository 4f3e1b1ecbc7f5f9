"""Whatever is wrong with an artifact is refused with one clear line, before anything of it is used."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime import machine
from runtime.artifact import MANIFEST, SCHEMA_VERSION, open_artifact, write_manifest
from runtime.check import replay
from runtime.engine import load
from runtime.errors import ArtifactError, UserError


def edit(artifact: Path, change: Callable[[dict], None]) -> None:
    path = artifact / MANIFEST
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_a_whole_artifact_opens_and_answers_right(artifact: Path) -> None:
    result = replay(load(artifact))
    assert result.passed
    assert result.error < 1e-5
    opened = open_artifact(artifact)
    assert opened.size_bytes == sum(p.stat().st_size for p in (artifact / "payload/b2").iterdir())


def test_no_folder_and_no_manifest(tmp_path: Path) -> None:
    for folder in (tmp_path / "nothing", tmp_path):
        with pytest.raises(ArtifactError, match=r"is no artifact.*st3 compile"):
            open_artifact(folder)


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"\xff\xfe", b'{"schema_version": "x"}', b'{"schema_version": 1}', b"null"]
)
def test_damaged_manifest(artifact: Path, raw: bytes) -> None:
    (artifact / MANIFEST).write_bytes(raw)
    with pytest.raises(ArtifactError, match="damaged"):
        open_artifact(artifact)


def test_newer_schema(artifact: Path) -> None:
    edit(artifact, lambda data: data.update(schema_version=99, something_new=True))
    with pytest.raises(ArtifactError, match=rf"schema 99.*reads up to {SCHEMA_VERSION}.*update st3"):
        open_artifact(artifact)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(unknown=1), "damaged.*unknown"),
        (lambda d: d["target"].update(batch_size="two"), "batch_size"),
        (lambda d: d["target"].update(batch_sizes=[2, 1]), r"batch_sizes.*ascending and end with batch_size"),
        (lambda d: d["target"].update(batch_sizes=[0, 2]), r">= 1 - at .*batch_sizes"),
        (lambda d: d["target"].update(batch_size=4), r"batch_sizes.*end with batch_size"),
        (lambda d: d["tolerance"].update(relative=None), "tolerance"),
        (lambda d: d["preprocessing"].update(std=[0.0]), "std positive"),
        (lambda d: d["preprocessing"].update(shape=[-1, 8, 8]), ">= 1 - at .*shape"),
        (lambda d: d["files"].update({"../evil": {"sha256": "0", "size_bytes": 1}}), "outside the artifact"),
        (lambda d: d["files"].update({"/etc/passwd": {"sha256": "0", "size_bytes": 1}}), "outside the artifact"),
        (lambda d: d["files"].update({"payload/more": {"sha256": "0", "size_bytes": 1}}), "is missing"),
        (lambda d: d["files"].pop("golden/inputs.npy"), "does not list golden/inputs.npy"),
        (lambda d: [d["files"].pop(k) for k in list(d["files"]) if k.startswith("payload")], "lists no payload"),
    ],
)
def test_foreign_manifest(artifact: Path, change: Callable[[dict], None], message: str) -> None:
    edit(artifact, change)
    with pytest.raises(ArtifactError, match=message):
        open_artifact(artifact)


@pytest.mark.parametrize("name", ["payload/b2/weights.bin", "payload/b2/network.so", "golden/outputs.npy"])
def test_truncated_changed_and_missing_files(artifact: Path, name: str) -> None:
    path = artifact / name
    raw = path.read_bytes()
    path.write_bytes(raw[:-1])
    with pytest.raises(ArtifactError, match=r"has \d+ bytes, its manifest says"):
        load(artifact)
    path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(ArtifactError, match="differs from its digest"):
        load(artifact)
    path.unlink()
    with pytest.raises(ArtifactError, match="is missing"):
        load(artifact)


def test_symbolic_links_are_refused(artifact: Path, tmp_path: Path) -> None:
    path = artifact / "payload/b2/weights.bin"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="symbolic link"):
        open_artifact(artifact)


def test_weights_of_another_artifact_are_refused_even_unverified(artifact: Path) -> None:
    path = artifact / "payload/b2/weights.bin"
    raw = bytearray(path.read_bytes())
    raw[8] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ArtifactError, match="does not belong to this library"):
        load(artifact, verify=False)


def test_a_library_that_is_none(artifact: Path) -> None:
    path = artifact / "payload/b2/network.so"
    path.write_bytes(b"\x7fELF" + bytes(path.stat().st_size - 4))
    with pytest.raises(ArtifactError, match="cannot be loaded"):
        load(artifact, verify=False)


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        ({"cpu_flags": ["quantum9"]}, r"needs quantum9; this machine has (sse2|asimd)"),
        ({"machine": "vax"}, f"needs vax, this machine is {platform.machine()}; compile it for this one"),
        ({"system": "Plan9"}, f"needs Plan9, this machine is {platform.system()}"),
        ({"packages": {"no-such-package": "1.2"}}, "pip install no-such-package==1.2"),
    ],
)
def test_what_the_machine_lacks_is_said(artifact: Path, needs: dict, message: str) -> None:
    edit(artifact, lambda data: data["requirements"].update(needs))
    with pytest.raises(ArtifactError, match=message):
        load(artifact)


@pytest.mark.parametrize(
    ("has", "message"),
    [
        (("sse2", "sse4_2", "avx"), r"needs avx2 fma; this machine has sse2 sse4_2 avx; .*st3 compile --isa"),
        (("asimd", "fp"), r"needs avx avx2 fma; this machine has asimd;"),
        ((), r"needs avx avx2 fma; this machine has no vector instructions"),
        (("avx", "avx2", "fma", "sse2"), None),
    ],
)
def test_a_machine_with_older_vectors_is_told_what_it_lacks_and_has(
    artifact: Path, monkeypatch: pytest.MonkeyPatch, has: tuple[str, ...], message: str | None
) -> None:
    edit(artifact, lambda data: data["requirements"].update(cpu_flags=["avx", "avx2", "fma"]))
    monkeypatch.setattr(machine, "cpu_flags", lambda: frozenset(has))
    if message is None:
        machine.check_requirements(open_artifact(artifact))
        return
    with pytest.raises(ArtifactError, match=message):
        load(artifact)


def test_unknown_engine(artifact: Path) -> None:
    edit(artifact, lambda data: data.update(engine="abacus"))
    with pytest.raises(ArtifactError, match=r"engine 'abacus'.*inductor, native, onnxruntime"):
        load(artifact)


def test_wrong_answers_fail_the_check(artifact: Path) -> None:
    import numpy as np

    from runtime.artifact import list_files

    golden = artifact / "golden/outputs.npy"
    np.save(golden, np.load(golden) * 1.01)
    manifest = open_artifact(artifact, verify=False).manifest
    import msgspec

    write_manifest(artifact, msgspec.structs.replace(manifest, files=list_files(artifact)))
    assert not replay(load(artifact)).passed


@pytest.mark.parametrize("threads", [0, -3])
def test_threads_must_be_positive(artifact: Path, threads: int) -> None:
    with pytest.raises(UserError, match="threads must be 1 or more"):
        load(artifact, threads)
