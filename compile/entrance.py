"""Tells a checkpoint from an ONNX file, and opens either."""

from __future__ import annotations

from pathlib import Path

from compile.network import Network, Normalisation, Origin
from runtime.data import sha256_of
from runtime.errors import UserError
from st3.checkpoint import INFO_FILE

_WEIGHTS = (".pt", ".pth", ".safetensors", ".bin")


def is_onnx(source: Path) -> bool:
    """Whether a path is an ONNX file's; ``False`` for a checkpoint's.

    Raises:
        UserError: it is neither.
    """
    if source.is_dir():
        return False
    if source.suffix == ".onnx" and source.is_file():
        return True
    what = "is no folder and does not end in .onnx" if source.exists() else "does not exist"
    weights = " (of a file of weights `st3 sparsify` makes one)" if source.suffix in _WEIGHTS else ""
    raise UserError(f"{source} {what}; give a checkpoint folder (st3 train) or an ONNX file{weights}")


def open_network(source: Path, batch_size: int, normalisation: Normalisation | None) -> tuple[Network, Origin]:
    """The network at a path for a batch size; a ``UserError`` if there is none that can be compiled."""
    if is_onnx(source):
        from compile.onnx_network import open_onnx

        return open_onnx(source, batch_size, normalisation or Normalisation())
    if normalisation is not None:
        raise UserError(
            f"{source} is a checkpoint, which says how its pictures are normalised; leave --mean and --std out"
        )
    from compile.from_checkpoint import open_checkpoint

    return open_checkpoint(source, batch_size)


def source_digest(source: Path) -> str:
    """What an artifact's ``checkpoint_sha256`` is for this source."""
    if is_onnx(source):
        from compile.onnx_file import digest_of

        return digest_of(source)
    return sha256_of(source / INFO_FILE)
