"""The artifact on disk: its manifest, and the checks a folder must pass before anything in it is used.

An artifact is a folder::

    manifest.json        what it is, what it needs, the digest of every other file
    payload/             what the engine loads: an ONNX file, a .pt2 package, or payload/b<N>/ with a shared library and
                         packed weights for each batch size
    golden/inputs.npy    inputs with which the compiler built the reference
    golden/outputs.npy   what the checkpoint itself answered to them
"""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath

import msgspec

from runtime.data import Preprocessing, sha256_of
from runtime.errors import ArtifactError

SCHEMA_VERSION = 3
"""2: Target.batch_sizes; a native payload has a folder per batch size. 3: what is proven of a GPU's layers."""
MANIFEST = "manifest.json"


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Name, full shape (batch included) and dtype of an input or output."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an artifact was built for. ``architecture`` is an instruction set (``avx512``) or a GPU's (``sm_90``).

    ``dtype`` is what is computed in; inputs and outputs are float32 whatever it is.

    ``batch_size`` is that of the manifest's shapes and of the golden data. ``batch_sizes`` are all that the payload was
    built for, ascending; ``batch_size`` is the last of them. Empty, as in schema 1, means ``batch_size`` alone.
    """

    device: str
    architecture: str
    dtype: str
    batch_size: int
    threads: int
    batch_sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        sizes = self.sizes
        if sizes[0] < 1 or sizes[-1] != self.batch_size or list(sizes) != sorted(set(sizes)):
            raise ValueError(f"batch_sizes {sizes} must be positive, ascending and end with batch_size")

    @property
    def sizes(self) -> tuple[int, ...]:
        """The batch sizes that the payload was built for, ascending."""
        return self.batch_sizes or (self.batch_size,)


class Lineage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the weights came from. Sparsities are fractions of zeros among the prunable weights, accuracy is top-1.

    Of an ONNX file ``recipe`` is the file's name, ``method`` is ``onnx``, and accuracy and seed are not known.
    """

    recipe: str
    method: str
    pattern: str
    target_sparsity: float
    sparsity: float
    accuracy: float | None
    seed: int | None
    commit: str
    checkpoint_sha256: str
    versions: dict[str, str]


class LayerEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One conv or linear layer. MACs are per picture; ``reason`` says why it got this ``format``.

    What only a GPU's artifact knows, ``None`` or empty elsewhere and where it was not measured:

    Attributes:
        macs_usable: multiply-adds that the kernel executes.
        kernels: names that the profiler saw when the layer ran.
        dense_us: microseconds of the whole batch in the fastest dense kernel, in a CUDA graph.
        chosen_us: the same of the kernel that was chosen.
        error: ``|y - y32| / |y32|`` (Frobenius) of the layer's result in the running network against float32.
        underflows: weights that are not zero and become zero in the target's dtype.
    """

    name: str
    op: str
    weight_shape: tuple[int, ...]
    pattern: str
    nonzeros: int
    density: float
    macs_dense: int
    macs_nonzero: int
    format: str
    reason: str
    macs_usable: int | None = None
    kernels: tuple[str, ...] = ()
    dense_us: float | None = None
    chosen_us: float | None = None
    error: float | None = None
    underflows: int | None = None


class Tolerance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Largest allowed ``max|y - golden| / max|golden|`` when the golden inputs are replayed."""

    relative: float


class Requirements(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the machine must have: CPU flags as the kernel names them, packages with the version built against.

    ``ops`` are the modules of ``runtime.cuda`` whose custom ops the payload calls.
    """

    system: str = ""
    machine: str = ""
    cpu_flags: tuple[str, ...] = ()
    packages: dict[str, str] = {}
    ops: tuple[str, ...] = ()


class DeviceProof(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the target's device was measured, and the whole network on it.

    Attributes:
        device: name of the GPU; empty where a cost model chose.
        versions: driver, CUDA, cuDNN and torch.
        networks_us: microseconds of the whole batch by version of the network (``dense``, ``chosen``, ...), each one
            CUDA graph, median, measured in turns.
        note: what was decided from them.
    """

    device: str = ""
    versions: dict[str, str] = {}
    networks_us: dict[str, float] = {}
    note: str = ""


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Digest and length of one file."""

    sha256: str
    size_bytes: int


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """``manifest.json``. ``files`` lists every other file of the artifact by its relative POSIX path."""

    schema_version: int
    name: str
    backend: str
    engine: str
    target: Target
    lineage: Lineage
    input: TensorSpec
    output: TensorSpec
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    layers: tuple[LayerEntry, ...]
    tolerance: Tolerance
    requirements: Requirements
    files: dict[str, FileEntry]
    proof: DeviceProof | None = None

    @property
    def macs_dense(self) -> int:
        """Multiply-accumulates of one picture if no weight were zero."""
        return sum(layer.macs_dense for layer in self.layers)

    @property
    def macs_nonzero(self) -> int:
        """Multiply-accumulates of one picture that have a non-zero weight."""
        return sum(layer.macs_nonzero for layer in self.layers)


class Artifact(msgspec.Struct, frozen=True):
    """An opened artifact: its folder, its manifest, and the digest of the manifest (which covers every file)."""

    folder: Path
    manifest: Manifest
    digest: str

    @property
    def payload(self) -> Path:
        """The folder that the engine loads from."""
        return self.folder / "payload"

    @property
    def size_bytes(self) -> int:
        """Bytes to ship: the payload without the golden data."""
        files = self.manifest.files.items()
        return sum(entry.size_bytes for path, entry in files if path.startswith("payload/"))


class _Version(msgspec.Struct):
    schema_version: int


def open_artifact(folder: Path, verify: bool = True) -> Artifact:
    """Read and check an artifact.

    Args:
        folder: the artifact's folder.
        verify: recompute the digest of every file. Without it only the names and lengths are checked.

    Raises:
        ArtifactError: the folder is no artifact, is newer than this runtime, or any file in it is missing,
            truncated, changed, outside the folder, not listed, or not to be read by this user.
    """
    try:
        return _open(folder, verify)
    except OSError as error:
        raise ArtifactError(
            f"{error.filename or folder} cannot be read ({error.strerror}); let this user read it, or copy the "
            f"artifact again"
        ) from error


def _open(folder: Path, verify: bool) -> Artifact:
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactError(f"{folder} is no artifact: it has no {MANIFEST}; `st3 compile` makes one")
    raw = path.read_bytes()
    try:
        version = msgspec.json.decode(raw, type=_Version).schema_version
    except msgspec.MsgspecError as error:
        raise ArtifactError(f"{path} is damaged ({error}); copy or compile the artifact again") from error
    if version > SCHEMA_VERSION:
        raise ArtifactError(
            f"{path} has schema {version}, this runtime reads up to {SCHEMA_VERSION}; update st3 or compile again"
        )
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
    except msgspec.MsgspecError as error:
        raise ArtifactError(f"{path} is damaged ({error}); copy or compile the artifact again") from error
    _check_files(folder, manifest, verify)
    return Artifact(folder=folder, manifest=manifest, digest=hashlib.sha256(raw).hexdigest())


def artifact_folders(path: Path) -> list[Path]:
    """Artifacts at or below a folder, sorted; hidden ones are builds that were cut off, and are left out."""
    return [manifest.parent for manifest in sorted(path.rglob(MANIFEST)) if not manifest.parent.name.startswith(".")]


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` whole or not at all; it is the last file that a compiler writes."""
    part = folder / (MANIFEST + ".part")
    part.write_bytes(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
    part.replace(folder / MANIFEST)


def list_files(folder: Path) -> dict[str, FileEntry]:
    """Digest every file below ``folder`` but the manifest, by relative POSIX path, sorted."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path.relative_to(folder) != Path(MANIFEST))
    return {
        path.relative_to(folder).as_posix(): FileEntry(sha256=sha256_of(path), size_bytes=path.stat().st_size)
        for path in found
    }


def _check_files(folder: Path, manifest: Manifest, verify: bool) -> None:
    again = "copy or compile the artifact again"
    for name, entry in manifest.files.items():
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\\" in name:
            raise ArtifactError(f"{folder / MANIFEST} names a file outside the artifact: {name!r}; do not use it")
        path = folder.joinpath(*parts)
        if any(folder.joinpath(*parts[: i + 1]).is_symlink() for i in range(len(parts))):
            raise ArtifactError(f"{path} is a symbolic link, which an artifact may not hold; {again}")
        if not path.is_file():
            raise ArtifactError(f"{path} is missing; {again}")
        size = path.stat().st_size
        if size != entry.size_bytes:
            raise ArtifactError(f"{path} has {size} bytes, its manifest says {entry.size_bytes}; {again}")
        if verify and sha256_of(path) != entry.sha256:
            raise ArtifactError(f"{path} differs from its digest in the manifest; {again}")
    for name in ("golden/inputs.npy", "golden/outputs.npy"):
        if name not in manifest.files:
            raise ArtifactError(f"{folder / MANIFEST} does not list {name}; {again}")
    if not any(name.startswith("payload/") for name in manifest.files):
        raise ArtifactError(f"{folder / MANIFEST} lists no payload; {again}")
