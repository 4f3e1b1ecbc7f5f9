"""What ``manifest.json`` says of an artifact."""

from __future__ import annotations

import math
from typing import Annotated

import msgspec

from runtime.data import Preprocessing

SCHEMA_VERSION = 4
"""2: Target.batch_sizes; a native payload has a folder per batch size. 3: what is proven of a GPU's layers.
4: ``more_outputs`` and ``Tolerance.more``."""

# a stranger's numbers have bounds, so that no sum of them overflows and no memory is asked for that cannot be meant
_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 50)]
Length = Annotated[int, msgspec.Meta(ge=1, le=1 << 31)]
_Threads = Annotated[int, msgspec.Meta(ge=1, le=1024)]
_MAX_ELEMENTS = 1 << 32  # of an input or output
MAX_OUTPUTS = 64

ORDERED = "2:4 in another order of its input channels"
"""How a layer's ``reason`` says that its zeros were brought into the pattern by ordering channels."""


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Name, full shape (batch included) and dtype of an input or output."""

    name: str
    shape: tuple[Length, ...]
    dtype: str

    def __post_init__(self) -> None:
        if not self.name or not self.shape or len(self.shape) > 8 or self.elements > _MAX_ELEMENTS:
            raise ValueError(f"a tensor needs a name and a shape of at most {_MAX_ELEMENTS:,} elements: {self.shape}")
        if self.dtype != "float32":
            raise ValueError(f"inputs and outputs are float32, not {self.dtype[:40]!r}")

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an artifact was built for. ``architecture`` is an instruction set (``avx512``) or a GPU's (``sm_90``).

    ``dtype`` is what is computed in; inputs and outputs are float32 whatever it is.

    ``batch_size`` is that of the manifest's shapes and of the golden data. ``batch_sizes`` are all that the payload was
    built for, ascending; ``batch_size`` is the last of them. Empty, as in schema 1, means ``batch_size`` alone.
    """

    device: str
    architecture: str
    dtype: str
    batch_size: Length
    threads: _Threads
    batch_sizes: tuple[Length, ...] = ()

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
    weight_shape: tuple[_Count, ...]
    pattern: str
    nonzeros: _Count
    density: float
    macs_dense: _Count
    macs_nonzero: _Count
    format: str
    reason: str
    macs_usable: _Count | None = None
    kernels: tuple[str, ...] = ()
    dense_us: float | None = None
    chosen_us: float | None = None
    error: float | None = None
    underflows: _Count | None = None


class Tolerance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Largest allowed ``max|y - golden| / max|golden|`` when the golden inputs are replayed.

    ``more`` are those of ``Manifest.more_outputs``; empty where ``relative`` holds for them too.
    """

    relative: float
    more: tuple[float, ...] = ()


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
    size_bytes: _Count


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """``manifest.json``. ``files`` lists every other file of the artifact by its relative POSIX path.

    ``more_outputs`` are those after the first one, ``output``; ``outputs`` are all.
    """

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
    more_outputs: tuple[TensorSpec, ...] = ()

    def __post_init__(self) -> None:
        batch = self.target.batch_size
        for spec in (self.input, *self.outputs):
            if spec.shape[0] != batch:
                raise ValueError(f"{spec.name[:40]!r} {spec.shape} must begin with batch_size {batch}")
        names = [self.input.name, *(spec.name for spec in self.outputs)]
        if self.more_outputs and len(set(names)) < len(names):
            raise ValueError(f"the input and the outputs must have names of their own: {[n[:40] for n in names[:9]]}")
        if len(self.more_outputs) >= MAX_OUTPUTS or len(self.tolerance.more) not in (0, len(self.more_outputs)):
            raise ValueError(
                f"there are {len(self.outputs)} outputs (at most {MAX_OUTPUTS}) and {len(self.tolerance.more)} "
                f"tolerances after the first"
            )

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What a batch is answered with, in the order of the payload's outputs and of the golden files."""
        return (self.output, *self.more_outputs)

    @property
    def tolerances(self) -> tuple[float, ...]:
        """The largest allowed error of each output."""
        return (self.tolerance.relative, *(self.tolerance.more or [self.tolerance.relative] * len(self.more_outputs)))

    @property
    def macs_dense(self) -> int:
        """Multiply-accumulates of one picture if no weight were zero."""
        return sum(layer.macs_dense for layer in self.layers)

    @property
    def macs_nonzero(self) -> int:
        """Multiply-accumulates of one picture that have a non-zero weight."""
        return sum(layer.macs_nonzero for layer in self.layers)
