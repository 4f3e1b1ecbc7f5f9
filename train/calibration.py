"""Writes training pictures as the network takes them: ``python -m train.calibration DATA --out training.npy``.

They are what ``python -m bench.quantize --calibration`` wants: never seen by whoever measures the accuracy, and not
augmented.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import numpy as np
import torch

from runtime.errors import UserError
from train.dataset import load_dataset
from train.detect import data_key
from train.seeds import generator

PICTURES = 128


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--pictures", type=click.IntRange(1), default=PICTURES, show_default=True, help="How many, drawn at random."
)
@click.option("--image-size", type=click.IntRange(1), help="Height and width that folders of pictures are brought to.")
@click.option("--seed", type=int, default=0, show_default=True, help="Chooses the pictures.")
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The .npy file.")
def main(data: Path, pictures: int, image_size: int | None, seed: int, out: Path) -> None:
    """Write training pictures of the folder DATA, normalised, as float32 (n, C, H, W)."""
    cpu = torch.device("cpu")
    dataset = load_dataset(data_key(data), data, image_size)
    order = torch.randperm(dataset.size, generator=generator(cpu, seed, "calibration"))[:pictures]
    found = np.concatenate([images.numpy() for images, _ in dataset.plain(order.sort().values, cpu)])
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(out.name + ".part")
    with part.open("wb") as stream:
        np.save(stream, np.ascontiguousarray(found, np.float32), allow_pickle=False)
    part.replace(out)
    click.echo(f"{out}: {len(found)} of {dataset.size} training pictures of {data}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.stderr.write(f"Error: {error}\n")
        raise SystemExit(2) from None
