"""Rules that say what would make a layer faster, most useful first, each as ``what to do: why``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from bench.explain.roofline import positions
from bench.naming import NATIVE
from runtime.manifest import ORDERED

if TYPE_CHECKING:
    from bench.explain.roofline import Bound
    from runtime.artifact import LayerEntry, Target

LANES = {"avx512": 16, "avx2": 8, "aarch64": 4, "portable": 4}
_FEW_WEIGHTS = 16  # of an output channel; beginning and ending its sum then takes as long as the weights
_SMALL_SHARE = 0.005
_NEAR = 1.4
_FULL = 0.9


class Case(msgspec.Struct, frozen=True):
    """What a rule may look at. ``backend`` built the layer.

    ``bound`` and ``measured_us`` are of the whole batch, ``None`` where not known, and so is ``share`` of its time.
    """

    layer: LayerEntry
    target: Target
    backend: str
    bound: Bound | None = None
    measured_us: float | None = None
    share: float | None = None

    @property
    def lanes(self) -> int:
        """Numbers of a vector; 1 where not known."""
        floats = LANES.get(self.target.architecture)
        return floats * 4 // np.dtype(self.target.dtype).itemsize if floats else 1

    @property
    def is_dense_format(self) -> bool:
        """Whether its zeros are multiplied."""
        return self.layer.format.startswith("dense")


Rule = Callable[[Case], "str | None"]


def advise(case: Case) -> tuple[str, ...]:
    """What the rules of the target's device say; never nothing."""
    found = tuple(text for rule in (_CUDA if case.target.device == "cuda" else _CPU) if (text := rule(case)))
    return found or ("less work: fewer multiply-adds, by a higher sparsity or fewer channels; no rule knows more",)


def _small_share(case: Case) -> str | None:
    if case.share is None or case.share >= _SMALL_SHARE:
        return None
    return f"leave it: it takes {case.share:.1%} of the network's time, so that no change of it can be noticed"


def _not_pruned(case: Case) -> str | None:
    if case.layer.density < 1:
        return None
    return "prune it: it has no zeros (st3 train --sparsity; a layer named by --exempt stays dense)"


def _too_dense(case: Case) -> str | None:
    layer = case.layer
    if case.backend != NATIVE or not case.is_dense_format or layer.density == 1:
        return None
    return (
        f"a higher sparsity: at density {layer.density:.2f} the dense kernel was taken; `st3 doctor` measures from "
        "which sparsity on a sparse format wins on this machine"
    )


def _dense_backend(case: Case) -> str | None:
    layer = case.layer
    if case.backend == NATIVE or layer.density == 1:
        return None
    zeros = 1 - layer.density
    return f"--backend native: {case.backend} multiplies all weights, and {zeros:.0%} of them are zero"


def _blocks(case: Case) -> str | None:
    if case.layer.format not in ("offset_stream", "pair_stream") or case.layer.weight_shape[0] < 4:
        return None
    return (
        "blocks of 4 channels (--pattern 1x4): four output channels then share each load (block_stream); "
        "`st3 doctor` times it beside this format"
    )


def _few_weights(case: Case) -> str | None:
    layer = case.layer
    per_channel = layer.nonzeros / max(layer.weight_shape[0], 1)
    if case.is_dense_format or per_channel >= _FEW_WEIGHTS:
        return None
    return (
        f"more zeros help little: an output channel has {per_channel:.1f} weights left, so that beginning and ending "
        "its sum takes most of the time; fewer channels (--pattern channel) would help"
    )


def _one_input_channel(case: Case) -> str | None:
    shape = case.layer.weight_shape
    if case.layer.op != "conv2d" or shape[1] != 1:
        return None
    taps = math.prod(shape[2:])
    return f"more zeros help little: an output channel has {taps} weights from one input channel, little to leave out"


def _small_map(case: Case) -> str | None:
    pixels, lanes = positions(case.layer), case.lanes
    batch = case.target.batch_size
    if case.layer.format == "dense_channels" or lanes == 1:
        return None
    filled = pixels / (math.ceil(pixels / lanes) * lanes)
    if filled >= _FULL or batch >= lanes:
        return None
    return (
        f"a larger batch (--batch-size {lanes}): {pixels} pixels fill vectors of {lanes} to {filled:.0%}; pictures of "
        "a batch can lie in the lanes instead"
    )


def _channels_in_lanes(case: Case) -> str | None:
    outputs, lanes = case.layer.weight_shape[0], case.lanes
    if case.layer.format != "dense_channels" or outputs % lanes == 0:
        return None
    return (
        f"output channels in multiples of {lanes}: {outputs} fill {outputs / (math.ceil(outputs / lanes) * lanes):.0%}"
    )


def _memory(case: Case) -> str | None:
    bound = case.bound
    if bound is None or not bound.waits_for_memory:
        return None
    return (
        f"fewer bytes, not fewer multiply-adds: it makes {bound.intensity:.1f} operations a byte, and reading from "
        f"{bound.place} takes longer than multiplying; a larger batch reads the weights less often"
    )


def _near_bound(case: Case) -> str | None:
    if case.bound is None or case.measured_us is None or case.measured_us > _NEAR * case.bound.us:
        return None
    return f"only less work: it runs within {case.measured_us / case.bound.us:.2f} times its bound"


def _gpu_pattern(case: Case) -> str | None:
    layer = case.layer
    if layer.format != "dense" or layer.density == 1 or layer.pattern == "2:4":
        return None
    if ORDERED in layer.reason:
        return None  # it had what 2:4 has, and dense was faster
    return (
        f"the pattern 2:4 (--pattern 2:4): tensor cores skip two of four zeros, and {layer.pattern} zeros at density "
        f"{layer.density:.2f} are 2:4 in no order of channels that was found; more zeros have one sooner"
    )


def _gpu_channels(case: Case) -> str | None:
    shape = case.layer.weight_shape
    if shape[1] % 8 == 0 and shape[0] % 16 == 0:
        return None
    return f"input channels in multiples of 8 and outputs of 16: {shape[1]} and {shape[0]} refuse the 2:4 kernels"


def _gpu_pointwise(case: Case) -> str | None:
    shape = case.layer.weight_shape
    if case.layer.format != "dense" or math.prod(shape[2:]) > 1 or case.layer.density == 1:
        return None
    return "a larger batch: a 1x1 layer moves more bytes than it multiplies, and waits for memory whatever its zeros"


_CPU: tuple[Rule, ...] = (
    _small_share,
    _one_input_channel,
    _not_pruned,
    _too_dense,
    _dense_backend,
    _few_weights,
    _memory,
    _near_bound,
    _blocks,
    _small_map,
    _channels_in_lanes,
)
_CUDA: tuple[Rule, ...] = (_small_share, _not_pruned, _gpu_pattern, _gpu_channels, _gpu_pointwise)
