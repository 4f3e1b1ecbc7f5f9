"""Preprocessing and the evaluation set: what training, the artifact and the bench agree on about pictures."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import numpy as np

from runtime import strict_json
from runtime.errors import UserError
from runtime.npy import read_npy

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

EVALUATION_SCHEMA = 1

_Pixels = Annotated[int, msgspec.Meta(ge=1, le=1 << 15)]  # or channels


class Preprocessing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a picture becomes the network's input: ``(x / 255 - mean) / std`` per channel, after resize and crop.

    ``shape`` is ``(C, H, W)``. ``resize`` is the length in pixels that the shorter side gets before the centre
    crop to ``(H, W)``; ``None`` resizes straight to ``(H, W)``.
    """

    shape: tuple[_Pixels, _Pixels, _Pixels]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: _Pixels | None = None

    def __post_init__(self) -> None:
        channels = self.shape[0]
        if min(self.shape) < 1 or len(self.mean) != channels or len(self.std) != channels:
            raise ValueError(
                f"preprocessing needs a positive (C, H, W) and C values of mean and std, "
                f"got shape {self.shape}, mean {self.mean}, std {self.std}"
            )
        if not all(np.isfinite(self.mean)) or not all(np.isfinite(self.std)) or min(self.std) <= 0:
            raise ValueError(f"mean must be finite and std positive, got mean {self.mean}, std {self.std}")

    def apply(self, images_BCHW: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Normalise ``uint8`` pictures ``(B, C, H, W)`` of the right size to ``float32``."""
        if images_BCHW.dtype != np.uint8 or images_BCHW.shape[1:] != self.shape:
            raise UserError(
                f"pictures must be uint8 of shape (B, {', '.join(map(str, self.shape))}), "
                f"got {images_BCHW.dtype} {images_BCHW.shape}"
            )
        scale = (1.0 / (255.0 * np.asarray(self.std, np.float64))).astype(np.float32)[:, None, None]
        shift = (np.asarray(self.mean, np.float64) / np.asarray(self.std, np.float64)).astype(np.float32)
        return np.ascontiguousarray(images_BCHW.astype(np.float32) * scale - shift[:, None, None])


class EvaluationSetInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``evaluation.json``: what the two arrays beside it are."""

    schema_version: int
    name: str
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    images_sha256: str
    labels_sha256: str


class EvaluationSet(msgspec.Struct, frozen=True):
    """The pictures on which accuracy is measured: ``images`` uint8 ``(n, C, H, W)``, ``labels`` int64 ``(n,)``."""

    info: EvaluationSetInfo
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return int(self.labels.shape[0])

    def batches(self, batch_size: int) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        """Normalised batches in order; the last one may be shorter."""
        for start in range(0, len(self), batch_size):
            images = np.asarray(self.images[start : start + batch_size])
            yield self.info.preprocessing.apply(images), self.labels[start : start + batch_size]


def write_evaluation_set(
    folder: str | Path,
    name: str,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    preprocessing: Preprocessing,
    classes: Sequence[str],
) -> EvaluationSet:
    """Write ``images.npy``, ``labels.npy`` and, last, ``evaluation.json``: a set that has it is complete.

    Raises:
        UserError: the folder holds a file of such a name that belongs to no evaluation set.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    foreign = [name for name in ("images.npy", "labels.npy") if (folder / name).exists()]
    if foreign and not (folder / "evaluation.json").exists():
        raise UserError(
            f"{folder / foreign[0]} is there without an evaluation.json, so it may be yours; give another folder for "
            "the evaluation set, or move the file"
        )
    for stem, array in (("images", images), ("labels", labels.astype(np.int64))):
        part = folder / f"{stem}.npy.part"
        with part.open("wb") as stream:
            np.save(stream, np.ascontiguousarray(array), allow_pickle=False)
        part.replace(folder / f"{stem}.npy")
    info = EvaluationSetInfo(
        schema_version=EVALUATION_SCHEMA,
        name=name,
        preprocessing=preprocessing,
        classes=tuple(classes),
        images_sha256=sha256_of(folder / "images.npy"),
        labels_sha256=sha256_of(folder / "labels.npy"),
    )
    part = folder / "evaluation.json.part"
    part.write_bytes(msgspec.json.format(msgspec.json.encode(info)) + b"\n")
    part.replace(folder / "evaluation.json")
    return load_evaluation_set(folder)


def load_evaluation_set(folder: Path, verify: bool = False) -> EvaluationSet:
    """Open an evaluation set, memory-mapped; ``verify`` recomputes the digests (reads everything once)."""
    path = folder / "evaluation.json"
    if not path.is_file():
        raise UserError(f"{folder} holds no evaluation set (no evaluation.json); `st3 train` writes one")
    try:
        info = strict_json.read(path, EvaluationSetInfo)
        images = read_npy(folder / "images.npy", mapped=True)
        labels = read_npy(folder / "labels.npy")
    except (OSError, ValueError) as error:
        raise UserError(f"the evaluation set in {folder} cannot be read: {error}; train again to rewrite it") from error
    if info.schema_version != EVALUATION_SCHEMA:
        raise UserError(f"{path} has schema {info.schema_version}, this version reads {EVALUATION_SCHEMA}; train again")
    fits = images.dtype == np.uint8 and images.shape[1:] == info.preprocessing.shape and labels.dtype == np.int64
    if not fits or labels.shape != images.shape[:1]:
        raise UserError(f"{folder}: images {images.dtype} {images.shape} and labels {labels.shape} do not fit {path}")
    if verify:
        for stem, digest in (("images", info.images_sha256), ("labels", info.labels_sha256)):
            if sha256_of(folder / f"{stem}.npy") != digest:
                raise UserError(f"{folder / stem}.npy differs from its digest in {path}; train again to rewrite it")
    return EvaluationSet(info=info, images=images, labels=labels)


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
