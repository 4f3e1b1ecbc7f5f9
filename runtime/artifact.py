"""The artifact on disk, and the checks that a folder must pass before anything in it is used.

An artifact is a folder::

    manifest.json        what it is, what it needs, the digest of every other file
    payload/             what the engine loads: an ONNX file, a .pt2 package, or payload/b<N>/ with a shared library and
                         packed weights for each batch size
    golden/inputs.npy    inputs with which the compiler built the reference
    golden/outputs.npy   what the checkpoint itself answered to them; further outputs in outputs-1.npy and so on
    manifest.sig         a signature of manifest.json, where somebody signed it

``docs/artifact.md`` says what a new schema may change and who reads what.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from runtime import files, npy, strict_json
from runtime.data import sha256_of
from runtime.errors import ArtifactError, UserError
from runtime.manifest import SCHEMA_VERSION as SCHEMA_VERSION  # what an artifact is made of comes from here as well
from runtime.manifest import DeviceProof as DeviceProof
from runtime.manifest import FileEntry as FileEntry
from runtime.manifest import LayerEntry as LayerEntry
from runtime.manifest import Length
from runtime.manifest import Lineage as Lineage
from runtime.manifest import Manifest as Manifest
from runtime.manifest import Requirements as Requirements
from runtime.manifest import Target as Target
from runtime.manifest import TensorSpec as TensorSpec
from runtime.manifest import Tolerance as Tolerance
from runtime.signature import SIGNATURE
from runtime.trust import Trust, check_trust

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MANIFEST = "manifest.json"
GOLDEN_INPUTS = "golden/inputs.npy"
_AGAIN = "copy or compile the artifact again"


class Artifact(msgspec.Struct, frozen=True):
    """An opened artifact: its folder, its manifest, and the digest of the manifest (which covers every file).

    ``verified``: every file had the manifest's digest when it was opened, and has it when ``read`` reads it.
    ``trusted``: it is the one that was demanded, so what runs must be these bytes and no others.
    """

    folder: Path
    manifest: Manifest
    digest: str
    verified: bool = False
    trusted: bool = False

    @property
    def payload(self) -> Path:
        """The folder that the engine loads from."""
        return self.folder / "payload"

    @property
    def size_bytes(self) -> int:
        """Bytes to ship: the payload without the golden data."""
        files = self.manifest.files.items()
        return sum(entry.size_bytes for path, entry in files if path.startswith("payload/"))

    def read(self, name: str) -> NDArray[np.uint8]:
        """A file's bytes, in private memory at a multiple of 64, so that what was checked is what is used.

        Args:
            name: its path in the manifest, ``payload/model.onnx`` for instance.

        Raises:
            ArtifactError: it is not listed, missing, or no longer what the manifest says.
        """
        entry = self.manifest.files.get(name)
        if entry is None:
            raise ArtifactError(f"{self.folder / MANIFEST} does not list {name}; {_AGAIN}")
        try:
            return files.read(self.folder, name, entry.size_bytes, entry.sha256 if self.verified else None)
        except (OSError, ValueError) as error:
            raise _refusal(self.folder / name, error) from error
        except MemoryError as error:
            raise ArtifactError(f"{self.folder / name} does not fit into memory; run it on a larger machine") from error


class _Version(msgspec.Struct):
    schema_version: Length


def open_artifact(folder: Path, verify: bool = True, trust: Trust | None = None) -> Artifact:
    """Read and check an artifact.

    Args:
        folder: the artifact's folder.
        verify: recompute the digest of every file. Without it only the names and lengths are checked.
        trust: what its manifest must be; it implies ``verify``.

    Raises:
        ArtifactError: the folder is no artifact, is newer than this runtime, is not the one that ``trust`` demands, or
            any file in it is missing, truncated, changed, outside the folder, not listed, no plain file, or not to be
            read by this user.
    """
    trust = trust or Trust()
    try:
        raw = files.beginning(folder, MANIFEST, strict_json.LIMIT_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError, files.NotPlainFileError) as error:
        raise ArtifactError(
            f"{folder} is no artifact: {files.what_instead(folder, MANIFEST, 'st3 compile')}"
        ) from error
    except OSError as error:
        raise _refusal(folder / MANIFEST, error) from error
    digest = hashlib.sha256(raw).hexdigest()
    check_trust(trust, folder, raw, digest)
    manifest = _decode(folder / MANIFEST, raw)
    verify = verify or trust.demanded
    _check_names(folder, manifest)
    for name, entry in manifest.files.items():
        try:
            files.compare(folder, name, entry.size_bytes, entry.sha256 if verify else None)
        except (OSError, ValueError) as error:
            raise _refusal(folder / name, error) from error
    for name, spec in _golden_files(manifest):
        _check_golden(folder, name, spec, manifest.files[name].size_bytes)
    _check_unlisted(folder, manifest)
    return Artifact(folder=folder, manifest=manifest, digest=digest, verified=verify, trusted=trust.demanded)


def _decode(path: Path, raw: bytes) -> Manifest:
    try:
        # what a newer schema has is not for this one to judge, but a number of its own it must have
        version = strict_json.decode(raw, _Version).schema_version
        if version > SCHEMA_VERSION:
            raise ArtifactError(
                f"{path} has schema {version}, this runtime reads up to {SCHEMA_VERSION}; update st3 or compile again"
            )
        return strict_json.decode(raw, Manifest)
    except ValueError as error:
        raise ArtifactError(f"{path} is damaged ({error}); {_AGAIN}") from error


def _refusal(path: Path, error: Exception) -> ArtifactError:
    """One line on a file, by what went wrong with it."""
    if isinstance(error, files.NotPlainFileError):
        return ArtifactError(f"{path} {error.strerror}; {_AGAIN}")
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return ArtifactError(f"{path} is missing; {_AGAIN}")
    if isinstance(error, OSError):
        return ArtifactError(
            f"{error.filename or path} cannot be read ({error.strerror}); let this user read it, or copy the "
            f"artifact again"
        )
    return ArtifactError(f"{path} {error}; {_AGAIN}")


def artifact_folders(path: Path) -> list[Path]:
    """Artifacts at or below a folder, sorted; hidden ones are builds that were cut off, and are left out."""
    return [manifest.parent for manifest in sorted(path.rglob(MANIFEST)) if not manifest.parent.name.startswith(".")]


def find_artifacts(path: Path) -> list[Path]:
    """The same; raises ``UserError`` where there are none."""
    found = artifact_folders(path)
    if not found:
        absent = "" if path.exists() else ", which does not exist"
        raise UserError(f"there is no artifact at or below {path}{absent}; `st3 compile` makes one")
    return found


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` whole or not at all; it is the last file that a compiler writes."""
    part = folder / (MANIFEST + ".part")
    raw = msgspec.json.format(msgspec.json.encode(manifest)) + b"\n"
    if len(raw) > strict_json.LIMIT_BYTES:
        raise ArtifactError(f"{folder / MANIFEST} would have {len(raw):,} bytes, {strict_json.LIMIT_BYTES:,} are read")
    part.write_bytes(raw)
    part.replace(folder / MANIFEST)


def list_files(folder: Path) -> dict[str, FileEntry]:
    """Digest every file below ``folder`` but the manifest and its signature, by relative POSIX path, sorted."""
    own = (Path(MANIFEST), Path(SIGNATURE))
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path.relative_to(folder) not in own)
    return {
        path.relative_to(folder).as_posix(): FileEntry(sha256=sha256_of(path), size_bytes=path.stat().st_size)
        for path in found
    }


def _check_names(folder: Path, manifest: Manifest) -> None:
    """The list of files, before any of them is touched."""
    for name in manifest.files:
        parts = name.split("/")
        if "\\" in name or not name.isprintable() or any(part in ("", ".", "..") or len(part) > 200 for part in parts):
            raise ArtifactError(f"{folder / MANIFEST} names a file outside the artifact: {name[:200]!r}; do not use it")
    for name, _ in _golden_files(manifest):
        if name not in manifest.files:
            raise ArtifactError(f"{folder / MANIFEST} does not list {name}; {_AGAIN}")
    if not any(name.startswith("payload/") for name in manifest.files):
        raise ArtifactError(f"{folder / MANIFEST} lists no payload; {_AGAIN}")


def golden_output(index: int) -> str:
    """The file that holds what the checkpoint itself answered by its output of that number."""
    return f"golden/outputs-{index}.npy" if index else "golden/outputs.npy"


def _golden_files(manifest: Manifest) -> list[tuple[str, TensorSpec]]:
    outputs = [(golden_output(index), spec) for index, spec in enumerate(manifest.outputs)]
    return [(GOLDEN_INPUTS, manifest.input), *outputs]


def _check_golden(folder: Path, name: str, spec: TensorSpec, size: int) -> None:
    """The shapes that callers and engines go by must be those of numbers that are really there."""
    try:
        start, shape, _, dtype = npy.header(files.beginning(folder, name, npy.MAX_HEADER))
    except ValueError as error:
        raise ArtifactError(f"{folder / name} cannot be read ({error}); {_AGAIN}") from error
    if shape != spec.shape or dtype.name != spec.dtype or size != start + 4 * spec.elements:
        raise ArtifactError(
            f"{folder / name} is {dtype} {shape} in {size} bytes, the manifest says {spec.dtype} {spec.shape}; {_AGAIN}"
        )


def _check_unlisted(folder: Path, manifest: Manifest) -> None:
    """No engine may find a file that nobody vouches for."""
    for path in (folder / "payload").rglob("*"):
        name = path.relative_to(folder).as_posix()
        if name not in manifest.files and not path.is_dir():
            raise ArtifactError(f"{path} is not in {MANIFEST}, and an engine might load it; {_AGAIN}")
