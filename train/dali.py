"""ImageNet's training pictures through NVIDIA DALI: JPEGs are decoded, cut, resized and normalised on the GPU.

The parts of the pictures are those that the other loader cuts, so a run may change its loader; resizing rounds in
another way. Files are read by threads, some batches ahead. Without a GPU the same operators run on the CPU.
"""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runtime.data import Preprocessing
from runtime.errors import UserError
from train.crops import random_crops

_AHEAD = 4
"""Batches whose files are being read."""

_File: TypeAlias = tuple[NDArray[np.uint8], int, int]
"""The bytes of a picture, its height and its width."""


def require_dali() -> None:
    """Raise a ``UserError`` if DALI is not installed."""
    try:
        import nvidia.dali  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"--loader dali: NVIDIA DALI cannot be imported ({error}); pip install 'st3[dali]', or leave it out"
        ) from error


@final
class DaliLoader:
    """Batches of an ``ImageFolder``; ``advice`` says how to get its files anew."""

    def __init__(self, folder: Any, preprocessing: Preprocessing, advice: str) -> None:
        self._samples: list[tuple[str, int]] = folder.samples
        self._preprocessing, self._advice = preprocessing, advice

    def batches(
        self, indices: Tensor, places: Tensor, seed: int, device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised ``float32`` pictures ``(B, C, H, W)``, their channels side by side in memory; labels ``(B,)``.

        Args:
            indices: of the pictures, ``(batches, B)``.
            places: of the pictures in the run, as ``indices``.
            seed: of the crops.
            device: where the batches shall lie.

        Raises:
            UserError: a file is missing or damaged.
        """
        if not len(indices):
            return
        labels = torch.tensor([label for _, label in self._samples])
        copied = torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        channels, height, width = self._preprocessing.shape
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            pipeline = self._pipeline(self._source(pool, indices, places, seed), indices.shape[1], device)
            for number, some in enumerate(indices):
                if copied is not None:
                    copied.synchronize()  # DALI takes its buffer back now
                found = self._run(pipeline, indices[number : number + _AHEAD])
                pictures = torch.empty((len(some), height, width, channels), device=device)
                _copy(found, pictures)
                if copied is not None:
                    copied.record()
                yield pictures.permute(0, 3, 1, 2), labels[some].to(device, non_blocking=True)

    def _pipeline(self, source: Iterator[Any], batch_size: int, device: torch.device) -> Any:
        from nvidia.dali import fn, pipeline_def, types

        gpu = device.type == "cuda"
        height, width = self._preprocessing.shape[1:]

        @pipeline_def(  # type: ignore[untyped-decorator, unused-ignore]
            batch_size=batch_size,
            num_threads=len(os.sched_getaffinity(0)),
            device_id=(device.index if device.index is not None else torch.cuda.current_device()) if gpu else None,
        )
        def pipeline() -> Any:
            encoded, start, size, mirrored = fn.external_source(
                source=source,
                num_outputs=4,
                dtype=[types.UINT8, types.INT32, types.INT32, types.INT32],
                ndim=[1, 1, 1, 0],
            )
            part = fn.decoders.image_slice(
                encoded,
                start=start,
                shape=size,
                axes=(0, 1),
                device="mixed" if gpu else "cpu",
                output_type=types.RGB,
                adjust_orientation=False,  # as torchvision reads it
            )
            small = fn.resize(part, size=(height, width), interp_type=types.INTERP_LINEAR, antialias=True)
            return fn.crop_mirror_normalize(
                small,
                mirror=mirrored,
                mean=[255 * value for value in self._preprocessing.mean],
                std=[255 * value for value in self._preprocessing.std],
                dtype=types.FLOAT,
                output_layout="HWC",
            )

        made = pipeline()
        made.build()
        return made

    def _source(self, pool: ThreadPoolExecutor, indices: Tensor, places: Tensor, seed: int) -> Iterator[Any]:
        """Of each batch the encoded pictures, the upper left corner of a part, its size, whether it is mirrored."""
        waiting: deque[list[Future[_File]]] = deque()
        todo = iter(indices.tolist())
        for batch_places in places:
            for some in todo:
                waiting.append([pool.submit(self._read, index) for index in some])
                if len(waiting) == _AHEAD:
                    break
            files = [future.result() for future in waiting.popleft()]
            sizes = torch.tensor([size for _, *size in files])
            boxes, mirrored = random_crops(seed, batch_places, sizes[:, 0], sizes[:, 1])
            corner, extent = (part.int().contiguous().numpy() for part in (boxes[:, :2], boxes[:, 2:]))
            yield [file for file, _, _ in files], corner, extent, mirrored.int().numpy()

    def _read(self, index: int) -> _File:
        from PIL import Image

        path = self._samples[index][0]
        try:
            encoded = Path(path).read_bytes()
            with Image.open(io.BytesIO(encoded)) as picture:  # reads the header alone
                return np.frombuffer(encoded, np.uint8), picture.height, picture.width
        except (OSError, SyntaxError) as error:
            raise self._damaged(path, error) from error

    def _run(self, pipeline: Any, indices: Tensor) -> Any:
        """The next batch; ``indices`` are those of the batches that may be in the works."""
        from PIL import Image

        try:
            return pipeline.run()[0]
        except RuntimeError as error:
            # DALI does not say which file it was
            for index in indices.flatten().tolist():
                path = self._samples[index][0]
                try:
                    with Image.open(path) as picture:
                        picture.load()
                except (OSError, SyntaxError) as reason:
                    raise self._damaged(path, reason) from error
            raise UserError(f"DALI failed, and no file of the batch is damaged: {error}") from error

    def _damaged(self, path: str, error: Exception) -> UserError:
        return UserError(f"{path} is missing or damaged ({error}): {self._advice}")


def _copy(found: Any, pictures: Tensor) -> None:
    from nvidia.dali.plugin.pytorch import feed_ndarray

    feed_ndarray(found.as_tensor(), pictures, torch.cuda.current_stream() if pictures.is_cuda else None)
