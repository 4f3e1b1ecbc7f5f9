"""Writes JPEGs of random textures in ImageNet's folder layout, so that its recipes can be tried without the data.

    python scripts/fake_imagenet.py data/fake-imagenet --classes 10 --train 40 --val 5

The same arguments write the same pictures: each class has a colour and a grain of its own, each picture its own noise.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def write(folder: Path, classes: int, train: int, val: int) -> None:
    """``train`` and ``val`` with ``classes`` folders of so many pictures each."""
    for part_number, (part, count) in enumerate((("train", train), ("val", val))):
        for label in range(classes):
            home = folder / part / f"n{label:08d}"
            home.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                random = np.random.default_rng((part_number, label, number))
                path = home / f"{home.name}_{number}.JPEG"
                Image.fromarray(texture(label, classes, random)).save(path, "JPEG", quality=85)


def texture(label: int, classes: int, random: np.random.Generator) -> NDArray[np.uint8]:
    """A picture ``(height, width, 3)`` of 250 to 500 pixels a side."""
    height, width = (int(side) for side in random.integers(250, 501, 2))
    grain = 4 + 4 * (label % 8)
    small = random.normal(0, 45, (height // grain + 1, width // grain + 1, 3))
    noise = small.repeat(grain, 0).repeat(grain, 1)[:height, :width]
    angle = 2 * np.pi * (label / classes + np.arange(3) / 3)
    return np.clip(128 + 70 * np.cos(angle) + noise, 0, 255).astype(np.uint8)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--train", type=int, default=40, help="pictures per class")
    parser.add_argument("--val", type=int, default=5, help="pictures per class")
    given = parser.parse_args()
    write(given.folder, given.classes, given.train, given.val)
