"""How a picture's pixels map to vector lanes and memory: sub-images or pictures in lanes, rows of channels, halos.

A vector holds the same position of several sub-images (and, for larger batches, of several pictures). Neighbours of a
position are therefore whole vectors at a constant distance, and every tap of a convolution is an aligned load. The
price is a halo: the vectors just outside the sub-images hold lanes permuted from the opposite border.
Memory order is ``[row][channel][column][lane]``, for small maps ``[channel][row][column][lane]``.
A network of dense weights has neighbouring channels in the lanes instead: then a "channel" in this order is a vector of
channels, a position is a pixel, and the halo holds the fill value alone.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from compile.graph import Shape

# Vectors. Larger maps are cut by rows, each thread its own, so that a thread's part should lie together.
SMALL_MAP = 8


class Geometry(msgspec.Struct, frozen=True):
    """Lanes of one vector: ``images`` pictures, each cut into ``lane_rows`` x ``lane_columns`` sub-images.

    ``height`` and ``width`` are the picture's; ``rows`` and ``columns`` the distance between sub-images, at least a
    sub-image's size. Lane ``(i * lane_rows + r) * lane_columns + c`` is sub-image ``(r, c)`` of picture ``i``.
    With ``lane_channels`` above 1 the lanes are that many channels of one pixel instead. A number takes ``item`` bytes.
    """

    lanes: int
    images: int
    lane_rows: int
    lane_columns: int
    rows: int
    columns: int
    height: int
    width: int
    lane_channels: int = 1
    item: int = 4

    def pixels(
        self, row: int | NDArray[np.int64], column: int | NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Picture, row and column of each lane at sub-image positions; picture -1 where the lane holds no pixel.

        Arrays of positions end with an axis of length 1, which becomes the axis of lanes.
        """
        lane = np.arange(self.lanes) // self.lane_channels
        per_image = self.lane_rows * self.lane_columns
        image, part = lane // per_image, lane % per_image
        y = (part // self.lane_columns) * self.rows + row
        x = (part % self.lane_columns) * self.columns + column
        inside = (image < self.images) & (y >= 0) & (y < self.height) & (x >= 0) & (x < self.width)
        image, y, x = np.broadcast_arrays(np.where(inside, image, -1), y, x)
        return image, y, x

    def grid(
        self, halo: tuple[int, int, int, int] = (0, 0, 0, 0)
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """``pixels`` of all positions, halo included: ``(rows, columns, lanes)`` each."""
        top, left, bottom, right = halo
        rows = np.arange(-top, self.rows + bottom)[:, None, None]
        return self.pixels(rows, np.arange(-left, self.columns + right)[None, :, None])

    def lane(self, image: NDArray[np.int64], y: NDArray[np.int64], x: NDArray[np.int64]) -> NDArray[np.int64]:
        """The lane that holds a pixel."""
        return (image * self.lane_rows + y // self.rows) * self.lane_columns + x // self.columns


class Placement(msgspec.Struct, frozen=True):
    """A tensor in memory: ``channels`` of a geometry with a halo of ``(top, left, bottom, right)`` positions.

    A tensor that is some channels of a larger one has the larger one's number of channels as ``whole``.
    """

    geometry: Geometry
    channels: int
    halo: tuple[int, int, int, int] = (0, 0, 0, 0)
    fill: float = 0.0
    whole: int = 0

    @property
    def width(self) -> int:
        """Vectors of one channel in one row, halo included."""
        return self.halo[1] + self.geometry.columns + self.halo[3]

    @property
    def vector(self) -> int:
        """Bytes of a vector."""
        return self.geometry.item * self.geometry.lanes

    @property
    def height(self) -> int:
        """Rows of one channel, halo included."""
        return self.halo[0] + self.geometry.rows + self.halo[2]

    @property
    def by_channel(self) -> bool:
        """Whether a channel's rows lie together: for maps so small that one tile of registers covers all of it."""
        return self.geometry.rows * self.geometry.columns <= SMALL_MAP

    @property
    def channel_stride(self) -> int:
        """Bytes from one channel to the next."""
        return self.width * self.vector * (self.height if self.by_channel else 1)

    @property
    def row_stride(self) -> int:
        """Bytes from one row to the next."""
        return self.width * self.vector * (1 if self.by_channel else max(self.whole, self.channels))

    @property
    def size(self) -> int:
        """Bytes of its channels in all."""
        return self.height * self.width * self.vector * self.channels

    def offset(self, row: int, column: int) -> int:
        """Bytes from the tensor's start to the vector at a sub-image position (negative ones lie in the halo)."""
        return (row + self.halo[0]) * self.row_stride + (column + self.halo[1]) * self.vector

    def edges(self) -> tuple[NDArray[np.void], NDArray[np.int32]]:
        """The vectors that must be rewritten after the sub-images: halo, and positions partly outside the picture.

        Returns:
            ``(edges, start)``: per edge source and target in bytes, and each lane's source lane and inside mask (which
            have as many bits as a number), sorted by source row; ``start[h]`` is the first edge whose source is row
            ``h`` (``rows + 1`` values).
        """
        geometry = self.geometry
        top, left, bottom, right = self.halo
        found: list[tuple[int, tuple[object, ...]]] = []
        for row in range(-top, geometry.rows + bottom):
            for column in range(-left, geometry.columns + right):
                edge = self._edge(row, column)
                if edge is not None:
                    found.append(edge)
        found.sort(key=lambda pair: pair[0])
        source_rows = np.array([row for row, _ in found], np.int64)
        start = np.searchsorted(source_rows, np.arange(geometry.rows + 1)).astype(np.int32)
        kind = edge_type(geometry)
        return (np.array([edge for _, edge in found], kind) if found else np.zeros(1, kind)), start

    def _edge(self, row: int, column: int) -> tuple[int, tuple[object, ...]] | None:
        geometry = self.geometry
        image, y, x = geometry.pixels(row, column)
        within = 0 <= row < geometry.rows and 0 <= column < geometry.columns
        occupied = np.arange(geometry.lanes) < geometry.images * geometry.lane_rows * geometry.lane_columns * (
            geometry.lane_channels
        )
        if within and bool((image >= 0)[occupied].all()):
            return None
        # all lanes come from one source position, because a sub-image's rows repeat with a period of `rows`
        source = (row % geometry.rows, column % geometry.columns)
        lane = np.arange(geometry.lanes)
        lane = np.where(image >= 0, geometry.lane(image, y, x), lane)
        return source[0], (self.offset(*source), self.offset(row, column), lane, np.where(image >= 0, -1, 0))


def edge_type(geometry: Geometry) -> np.dtype[np.void]:
    """``Edge`` of ``move.h``."""
    return np.dtype([("source", "<i4"), ("target", "<i4"), *_lane_fields(geometry)])


def blend_type(geometry: Geometry) -> np.dtype[np.void]:
    """``Blend`` of ``move.h``."""
    return np.dtype([("source", "<i4"), *_lane_fields(geometry)])


def _lane_fields(geometry: Geometry) -> list[tuple[str, np.dtype[np.signedinteger[Any]], int]]:
    """Where each lane comes from, and whether it comes from there at all."""
    return [(name, mask_type(geometry.item), geometry.lanes) for name in ("lane", "inside")]


def mask_type(item: int) -> np.dtype[np.signedinteger[Any]]:
    """The integers of a vector whose numbers take ``item`` bytes."""
    return np.dtype(f"<i{item}")


def candidates(shape: Shape, lanes: int, images: int, item: int = 4) -> list[Geometry]:
    """Every way to cut a picture into sub-images, fewest vectors first; then squarer, for smaller halos."""
    _, height, width = shape
    found = [
        Geometry(lanes, images, down, across, -(-height // down), -(-width // across), height, width, item=item)
        for down in range(1, min(lanes // images, height) + 1)
        for across in range(1, min(lanes // images // down, width) + 1)
    ]
    return sorted(found, key=lambda g: (g.rows * g.columns, g.rows + g.columns, g.rows))


def channel_geometry(size: tuple[int, int], lanes: int, item: int = 4) -> Geometry:
    """Channels in the lanes; with one lane, plain rows of numbers."""
    return Geometry(lanes, 1, 1, 1, *size, *size, lane_channels=lanes, item=item)


def placed(geometry: Geometry, channels: int, fill: float = 0.0) -> Placement:
    """A tensor of that many channels of the network, without a halo."""
    return Placement(geometry, -(-channels // geometry.lane_channels), fill=fill)


def gather_table(source: Placement | Shape, target: Placement, step: tuple[int, int]) -> NDArray[np.int32]:
    """Where each lane of a tensor comes from: offset in numbers inside the source's channel, -1 where no pixel is.

    Args:
        source: a tensor in this layout, or the ``(C, H, W)`` of a plain ``N C H W`` array.
        target: the tensor to fill, halo included; its pixel ``(y, x)`` is the source's ``(y * step, x * step)``.
        step: rows and columns of the source from one target pixel to the next.

    Returns:
        ``(rows, width, lanes)`` over the target's positions.
    """
    image, y, x = target.geometry.grid(target.halo)
    channel = np.arange(target.geometry.lanes) % target.geometry.lane_channels
    offset = number_offset(source, image, y * step[0], x * step[1])
    if isinstance(source, Placement):
        return np.where(image >= 0, offset + channel, -1).astype(np.int32)
    channels, height, width = source
    inside = (image >= 0) & (channel < channels)
    return np.where(inside, offset + channel * height * width, -1).astype(np.int32)


def blend_table(table: NDArray[np.int32], geometry: Geometry) -> tuple[NDArray[np.void], NDArray[np.int32]]:
    """A gather between two tensors of whole vectors, as what each target vector takes from each source vector.

    Args:
        table: of ``gather_table``.
        geometry: of either tensor; both have its lanes.

    Returns:
        ``Blend`` of ``move.h``, and where each target vector's begin: ``rows * width + 1`` values.
    """
    lanes = geometry.lanes
    offsets = table.reshape(-1, lanes)
    vectors = np.where(offsets >= 0, offsets // lanes, -1)
    found, start = [], [0]
    for own, offset in zip(vectors, offsets, strict=True):
        sources = [int(vector) for vector in np.unique(own) if vector >= 0]
        found += [
            (vector * lanes * geometry.item, np.where(own == vector, offset % lanes, 0), np.where(own == vector, -1, 0))
            for vector in sources
        ]
        start.append(len(found))
    return np.array(found, blend_type(geometry)), np.array(start, np.int32)


def scatter_table(source: Placement) -> NDArray[np.int32]:
    """Offset in numbers inside a channel (or a vector of channels) of each pixel: ``(images, height * width)``."""
    geometry = source.geometry
    image, y, x = np.meshgrid(
        np.arange(geometry.images), np.arange(geometry.height), np.arange(geometry.width), indexing="ij"
    )
    return number_offset(source, image, y, x).reshape(geometry.images, -1).astype(np.int32)


def some_pixels(geometry: Geometry) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Picture, row and column ``(rows, columns, lanes)`` of each lane at each position.

    A lane without a pixel of its own has some other one's: it may compute that, as nobody reads it.
    """
    _, y, x = geometry.grid()
    image = np.minimum(np.arange(geometry.lanes) // (geometry.lane_rows * geometry.lane_columns), geometry.images - 1)
    return np.broadcast_to(image, y.shape), y.clip(0, geometry.height - 1), x.clip(0, geometry.width - 1)


def inside_masks(placement: Placement) -> NDArray[np.signedinteger[Any]]:
    """``(rows * columns, lanes)``: -1 where a lane holds a pixel, else 0."""
    geometry = placement.geometry
    image, _, _ = geometry.grid()
    return np.where(image >= 0, -1, 0).reshape(-1, geometry.lanes).astype(mask_type(geometry.item))


def number_offset(
    source: Placement | Shape, image: NDArray[np.int64], y: NDArray[np.int64], x: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Offset in numbers of pixels in a channel of a tensor, or of a plain array of one picture after another."""
    if not isinstance(source, Placement):
        channels, height, width = source
        return image * channels * height * width + y * width + x
    geometry = source.geometry
    row, column = y % geometry.rows, x % geometry.columns
    start = source.offset(0, 0) + row * source.row_stride + column * source.vector
    return start // geometry.item + geometry.lane(image, y, x)
