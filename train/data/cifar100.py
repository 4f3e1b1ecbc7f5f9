"""CIFAR-100 (Krizhevsky 2009): 50,000 and 10,000 colour pictures of 32 x 32 pixels in a hundred (fine) classes."""

from __future__ import annotations

from pathlib import Path

from runtime.data import Preprocessing
from train.cifar import Archive, open_archive
from train.memory import MemoryDataset

_CLASSES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
    man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
    pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
    skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
    tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
_ARCHIVE = Archive(
    name="CIFAR100",
    folder="cifar100",
    python="cifar-100-python",
    binary="cifar-100-binary",
    package="cifar-100-binary.tar.gz",
    train=("train.bin",),
    test=("test.bin",),
    records={"train.bin": 50_000, "test.bin": 10_000},
    label_bytes=2,
    classes=tuple(_CLASSES.split()),
    preprocessing=Preprocessing(shape=(3, 32, 32), mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762)),
)


def load(folder: Path) -> MemoryDataset:
    """Open what torchvision downloaded into a folder, or the two ``.bin`` files of the binary version.

    A record of the binary version begins with the coarse label, which is left out, and the fine one.

    Raises:
        UserError: a file is missing or damaged.
    """
    return open_archive(_ARCHIVE, folder)
