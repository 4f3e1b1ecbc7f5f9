"""Code runs only from the artifact that was demanded: by its digest, or by who signed it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from runtime import cli, files
from runtime.artifact import MANIFEST, list_files, open_artifact
from runtime.check import replay
from runtime.engine import load
from runtime.engines import native
from runtime.errors import ArtifactError, UserError
from runtime.signature import SIGNATURE, check_signature, make_keys, sign
from runtime.trust import DIGEST_VARIABLE, SIGNATURE_VARIABLE, Trust, demand_everywhere, trust_from
from st3.cli import main

LIBRARY = "payload/b2/network.so"


def digest_of(folder: Path) -> str:
    return "sha256:" + hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A library that makes a file when it is loaded, and that file."""
    folder = tmp_path_factory.mktemp("evil")
    marker = folder / "ran"
    source = folder / "evil.cpp"
    source.write_text(
        "#include <fcntl.h>\n#include <unistd.h>\n"
        f'__attribute__((constructor)) static void run() {{ close(open("{marker}", O_CREAT | O_WRONLY, 0600)); }}\n'
    )
    subprocess.run(["g++", "-shared", "-fPIC", "-o", folder / "evil.so", source], check=True)
    return folder / "evil.so", marker


def replace_library(artifact: Path, library: Path) -> None:
    """With a manifest that agrees, as somebody who knows the format would."""
    shutil.copy(library, artifact / LIBRARY)
    path = artifact / MANIFEST
    data = json.loads(path.read_text())
    entry = list_files(artifact)[LIBRARY]
    data["files"][LIBRARY] = {"sha256": entry.sha256, "size_bytes": entry.size_bytes}
    path.write_text(json.dumps(data))


def test_the_required_digest_runs_and_no_other(artifact: Path, evil: tuple[Path, Path]) -> None:
    digest = digest_of(artifact)
    other = "sha256:" + "0" * 64
    for demanded in (digest, digest.upper().replace("SHA256", "sha256"), f"{other}, {digest}"):
        assert replay(load(artifact, require_digest=demanded)).passed
    with pytest.raises(ArtifactError, match=rf"has the digest {digest}, which is not the required one"):
        load(artifact, require_digest=other)
    replace_library(artifact, evil[0])
    with pytest.raises(ArtifactError, match="not the required one"):
        load(artifact, require_digest=digest, verify=False)
    assert not evil[1].exists()
    with pytest.raises(ArtifactError, match="cannot be loaded"):  # without a demand it is code like any other
        load(artifact)
    assert evil[1].exists()
    evil[1].unlink()


def test_a_demand_verifies_whatever_verify_says(artifact: Path, evil: tuple[Path, Path]) -> None:
    digest = digest_of(artifact)
    raw = bytearray((artifact / LIBRARY).read_bytes())
    raw[-1] ^= 1
    (artifact / LIBRARY).write_bytes(raw)
    with pytest.raises(ArtifactError, match="differs from its digest"):
        load(artifact, require_digest=digest, verify=False)


@pytest.mark.parametrize(
    "text", ["", " ", "sha256:", "0" * 64, "md5:" + "0" * 32, "sha256:" + "0" * 63, "sha256:" + "g" * 64]
)
def test_digests_that_are_none(artifact: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    message = "must be sha256: and 64 hex digits|is empty, which would demand nothing"
    with pytest.raises(UserError, match=message):
        load(artifact, require_digest=text)
    monkeypatch.setenv(DIGEST_VARIABLE, text)
    with pytest.raises(UserError, match=message):
        load(artifact)


def test_an_empty_key_demands_nothing_and_is_refused(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="public key is empty"):
        load(artifact, require_signature="")
    monkeypatch.setenv(SIGNATURE_VARIABLE, "a.pem:")
    with pytest.raises(UserError, match="ST3_REQUIRE_SIGNATURE is empty"):
        load(artifact)


def test_the_environment_demands_of_every_load(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DIGEST_VARIABLE, "sha256:" + "0" * 64)
    with pytest.raises(ArtifactError, match="not the required one"):
        load(artifact)
    load(artifact, require_digest=digest_of(artifact)).close()  # a caller knows better
    monkeypatch.delenv(DIGEST_VARIABLE)
    assert not trust_from(None, None).demanded
    with monkeypatch.context() as patch:
        patch.setenv(DIGEST_VARIABLE, "x")  # so that what is set here is taken back
        demand_everywhere(digest_of(artifact), None)
        assert os.environ[DIGEST_VARIABLE] == digest_of(artifact)
        load(artifact).close()


@pytest.mark.parametrize("name", [LIBRARY, "payload/b2/weights.bin"])
def test_what_is_put_there_after_the_check_does_not_run(artifact: Path, evil: tuple[Path, Path], name: str) -> None:
    opened = open_artifact(artifact, trust=trust_from(digest_of(artifact), None))
    raw = evil[0].read_bytes() if name == LIBRARY else (artifact / name).read_bytes()
    (artifact / name).write_bytes(
        raw[: opened.manifest.files[name].size_bytes - 1].ljust(opened.manifest.files[name].size_bytes)
    )
    with pytest.raises(ArtifactError, match="differs from its digest"):
        native.load(opened, 1)
    assert not evil[1].exists()


def test_what_is_put_there_after_it_was_read_does_not_run(
    artifact: Path, evil: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    load_library = files.load_library

    def late(content: np.ndarray, path: Path, private: bool) -> object:
        shutil.copy(evil[0], path)
        return load_library(content, path, private)

    monkeypatch.setattr(files, "load_library", late)
    engine = load(artifact, require_digest=digest_of(artifact))
    weights = artifact / "payload/b2/weights.bin"
    weights.write_bytes(bytes(weights.stat().st_size))  # what is computed with is ours already
    assert engine.run({"input": np.ones((2, 1, 8, 8), np.float32)})["output"].any()
    assert not evil[1].exists()


def test_without_sealed_memory_nothing_that_was_demanded_runs(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(files, "_libraries", {})
    monkeypatch.setattr(os, "memfd_create", none)
    assert replay(load(artifact)).passed
    with pytest.raises(ArtifactError, match=r"cannot be loaded \(.*not implemented"):
        load(artifact, require_digest=digest_of(artifact))


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    pytest.importorskip("cryptography", reason="signatures need the extra sign: pip install cryptography")
    make_keys(tmp_path / "private.pem", tmp_path / "public.pem")
    return tmp_path / "private.pem", tmp_path / "public.pem"


def test_signed_artifacts_run_and_unsigned_and_changed_ones_do_not(
    artifact: Path, keys: tuple[Path, Path], evil: tuple[Path, Path], tmp_path: Path
) -> None:
    private, public = keys
    with pytest.raises(ArtifactError, match=r"is not signed .*unsigned code is forbidden here"):
        load(artifact, require_signature=public)
    sign(artifact, private)
    assert replay(load(artifact, require_signature=public)).passed
    make_keys(tmp_path / "other.pem", tmp_path / "other-public.pem")
    assert load(artifact, require_signature=f"{tmp_path / 'other-public.pem'}:{public}").artifact.trusted
    with pytest.raises(ArtifactError, match=r"is not by other-public\.pem, or its manifest was changed"):
        load(artifact, require_signature=tmp_path / "other-public.pem")
    signature = (artifact / SIGNATURE).read_bytes()
    assert len(signature) == 64
    for damaged in (b"", signature[:-1], signature + b"\0", bytes(64), signature[::-1]):
        (artifact / SIGNATURE).write_bytes(damaged)
        with pytest.raises(ArtifactError, match="or its manifest was changed"):
            load(artifact, require_signature=public)
    (artifact / SIGNATURE).write_bytes(signature)
    replace_library(artifact, evil[0])
    with pytest.raises(ArtifactError, match="or its manifest was changed"):
        load(artifact, require_signature=public, verify=False)
    assert not evil[1].exists()


def test_a_signature_that_is_a_link_is_none(artifact: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    sign(artifact, keys[0])
    (artifact / SIGNATURE).rename(tmp_path / "sig")
    (artifact / SIGNATURE).symlink_to(tmp_path / "sig")
    with pytest.raises(ArtifactError, match="is not signed"):
        load(artifact, require_signature=keys[1])


def test_keys_that_are_none(artifact: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private, public = keys
    assert private.stat().st_mode & 0o777 == 0o600
    (tmp_path / "none.pem").write_bytes(b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
    curve = ec.generate_private_key(ec.SECP256R1())
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    (tmp_path / "ec.pem").write_bytes(curve.public_key().public_bytes(serialization.Encoding.PEM, form))
    for path, message in (
        (tmp_path / "missing.pem", "cannot be read"),
        (tmp_path / "none.pem", "is no PEM public key"),
        (private, "is no PEM public key"),
        (tmp_path / "ec.pem", "is no ed25519 key"),
    ):
        with pytest.raises(UserError, match=message):
            check_signature(artifact, b"", (path,))
    for path, message in ((public, "is no PEM private key"), (tmp_path / "missing.pem", "cannot be read")):
        with pytest.raises(UserError, match=message):
            sign(artifact, path)
    with pytest.raises(UserError, match="exists, and a key that is overwritten is lost"):
        make_keys(private, tmp_path / "new.pem")


def test_openssl_agrees(artifact: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    sign(artifact, keys[0])
    sign_with_openssl = ["openssl", "pkeyutl", "-sign", "-rawin", "-inkey", keys[0], "-in", artifact / MANIFEST]
    subprocess.run([*sign_with_openssl, "-out", tmp_path / "sig"], check=True)
    assert (tmp_path / "sig").read_bytes() == (artifact / SIGNATURE).read_bytes()  # ed25519 is deterministic


def runtime_cli(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    status = cli.main([str(word) for word in words])
    out = capsys.readouterr()
    return status, out.out, out.err


def test_the_commands_of_the_runtime(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = runtime_cli(capsys, "inspect", artifact)
    assert status == 0
    assert digest_of(artifact) in out
    assert json.loads(runtime_cli(capsys, "inspect", artifact, "--json")[1])["kind"] == "artifact"
    status, out, _ = runtime_cli(capsys, "verify", artifact, "--require-digest", digest_of(artifact), "--json")
    assert (status, json.loads(out)["digest"]) == (0, digest_of(artifact))
    assert runtime_cli(capsys, "check", artifact, "--require-digest", digest_of(artifact))[0] == 0
    status, out, _ = runtime_cli(capsys, "check", artifact, "--require-digest", "sha256:" + "0" * 64, "--json")
    assert (status, json.loads(out)[0]["passed"]) == (1, False)
    np.save(tmp_path / "x.npy", np.ones((3, 1, 8, 8), np.float32))
    status, out, _ = runtime_cli(capsys, "run", artifact, tmp_path / "x.npy", "--top", 2, "--out", tmp_path / "y.npy")
    assert (status, len(out.splitlines())) == (0, 3)
    assert np.load(tmp_path / "y.npy").shape == (3, 3)
    for words, message in (
        (("verify", artifact, "--require-digest", "x"), "64 hex digits"),
        (("run", artifact, tmp_path / "x.npy", "--top", 0), "--top must be 1 or more"),
        (("run", artifact, tmp_path / "x.npy", "--out", tmp_path / "no/y.npy"), "cannot be written"),
        (("run", artifact, tmp_path / "x.npy", "--require-digest", "sha256:" + "0" * 64), "not the required one"),
    ):
        status, _, err = runtime_cli(capsys, *words)
        assert (status, len(err.splitlines())) == (2, 1)
        assert message in err


def test_keys_signing_and_verifying_from_the_command_line(
    artifact: Path, keys: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    private, public = tmp_path / "k.pem", tmp_path / "p.pem"
    assert runtime_cli(capsys, "keygen", "--key", private, "--public-key", public)[0] == 0
    assert "is not signed" in runtime_cli(capsys, "verify", artifact, "--public-key", public)[2]
    assert runtime_cli(capsys, "sign", artifact, "--key", private)[0] == 0
    status, out, _ = runtime_cli(capsys, "verify", artifact, "--public-key", public)
    assert (status, "signed by that key" in out) == (0, True)
    assert runtime_cli(capsys, "check", artifact, "--require-signature", public)[0] == 0
    assert runtime_cli(capsys, "check", artifact, "--require-signature", keys[1])[0] == 1


def test_the_commands_of_st3_demand_too(artifact: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((3, 1, 8, 8), np.float32))
    for words in (["check", artifact], ["run", artifact, tmp_path / "x.npy"]):
        for digest, good in ((digest_of(artifact), True), ("sha256:" + "0" * 64, False)):
            result = CliRunner().invoke(main, [*map(str, words), "--require-digest", digest])
            assert (result.exit_code == 0) == good, result.output
            assert good or "not the required one" in result.output


def test_trust_is_asked_before_anything_else_of_the_manifest(artifact: Path) -> None:
    (artifact / MANIFEST).write_bytes(b"\xff" * 100)
    with pytest.raises(ArtifactError, match="not the required one"):
        open_artifact(artifact, trust=Trust(frozenset({"0" * 64})))
