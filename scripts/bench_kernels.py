"""Times every kernel of the native engine's table on the 1x1 layers of ResNet-50's first stages, and prints one table.

For each map size one network is a chain of reducing and expanding layers, one pair per density, so that a layer runs
between neighbours as it would in a ResNet. Each kernel gets for each layer the tile and cut that ran fastest; then the
kernels take turns, and the shortest time of each step counts. Weights are random, in full blocks of 4 output channels
unless asked otherwise, and the same for all kernels.

    python scripts/bench_kernels.py --map 56
"""

from __future__ import annotations

import argparse
import sys

import msgspec
import numpy as np
from numpy.typing import NDArray

from compile.graph import Conv, Graph
from compile.native.builder import Builder
from compile.native.isa import Isa, cache_bytes, isa_for
from compile.native.kernel_table import KERNELS
from compile.native.plan import Plan
from compile.native.schedule import Schedule, candidates, without_joins
from compile.native.select import choose_plan
from compile.native.steps import Compute
from compile.native.tune import Tuner
from compile.native.weights import Packs

# map size: channels outside and inside the bottleneck
CHANNELS = {56: (256, 64), 28: (512, 128), 14: (1024, 256), 7: (2048, 512)}

Options = dict[str, list[Schedule]]


class Case(msgspec.Struct, frozen=True):
    """The plan of a chain, and per kernel what it may run in each layer; a kernel that refuses a layer is left out."""

    plan: Plan
    convs: dict[str, Conv]
    options: dict[str, Options]


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--map", type=int, choices=sorted(CHANNELS), action="append", help="height and width")
    parser.add_argument("--densities", type=float, nargs="+", default=[0.1, 0.2, 0.3, 0.5])
    parser.add_argument("--block", type=int, default=4, help="output channels that are kept or dropped together")
    parser.add_argument("--isa", default="native", help="instruction set")
    parser.add_argument("--codes", type=int, default=4, help="tiles that are tried per kernel and layer")
    parser.add_argument("--rounds", type=int, default=20, help="turns of the last measurement")
    given = parser.parse_args()
    isa = isa_for(given.isa)
    for size in given.map or [56, 28]:
        case = make_case(chain(size, given.densities, given.block), isa, given.codes)
        sys.stdout.write(table(case, measure(case, isa, given.rounds)))


def chain(size: int, densities: list[float], block: int) -> Graph:
    """Per density a reducing and an expanding 1x1 convolution with ReLU, on ``size`` x ``size`` maps."""
    outer, inner = CHANNELS[size]
    generator = np.random.default_rng(0)
    nodes: list[Conv] = []
    shapes = {"input": (outer, size, size)}
    value = "input"
    for density in densities:
        for channels in (inner, outer):
            weight = random_weight(generator, channels, shapes[value][0], density, block)
            name = f"{shapes[value][0]}->{channels} {size}x{size} density {density:g}"
            bias = np.zeros(channels, np.float32)
            nodes.append(Conv(name, value, name, "conv2d", weight, bias, activation="relu"))
            shapes[name] = (channels, size, size)
            value = name
    return Graph("input", value, tuple(nodes), shapes)


def random_weight(
    generator: np.random.Generator, outputs: int, inputs: int, density: float, block: int
) -> NDArray[np.float32]:
    """``(outputs, inputs, 1, 1)``, scaled so that a chain with ReLU keeps its size."""
    blocks = -(-outputs // block)
    kept = generator.permuted(np.arange(blocks * inputs)) < density * blocks * inputs
    mask = np.repeat(kept.reshape(blocks, inputs), block, axis=0)[:outputs]
    weight = generator.standard_normal((outputs, inputs)) * mask * np.sqrt(2 / (inputs * density))
    scaled: NDArray[np.float32] = weight.astype(np.float32)[:, :, None, None]
    return scaled


def make_case(graph: Graph, isa: Isa, codes: int) -> Case:
    """The ``codes`` tiles that the cost model likes best, per kernel and layer, with all their cuts."""
    plan = without_joins(choose_plan(graph, 1, isa, cache_bytes(2)))  # each step is timed alone
    steps = [step for step in plan.steps if isinstance(step, Compute)]
    found = {step.node.output: candidates(plan, step, isa, cache_bytes(1)) for step in steps}
    options: dict[str, Options] = {}
    for kernel in KERNELS:
        of_kernel = {name: [s for s in schedules if s.format == kernel] for name, schedules in found.items()}
        if all(of_kernel.values()):
            options[kernel] = {name: best_codes(schedules, codes) for name, schedules in of_kernel.items()}
    return Case(plan, {step.node.output: step.node for step in steps if isinstance(step.node, Conv)}, options)


def best_codes(schedules: list[Schedule], count: int) -> list[Schedule]:
    """Schedules of the first ``count`` different codes."""
    codes = list(dict.fromkeys(schedule.code for schedule in schedules))[:count]
    return [schedule for schedule in schedules if schedule.code in codes]


def measure(case: Case, isa: Isa, rounds: int) -> dict[str, dict[str, tuple[Schedule, float]]]:
    """Per kernel and layer the schedule that ran fastest, and its shortest time in ms with all kernels in turns."""

    def quiet(text: str) -> None:
        del text

    chosen = {}
    with Builder(isa) as builder:
        for kernel, options in case.options.items():
            tuner = Tuner(case.plan, options, builder, 1, Packs())
            tuner.measure(tuner.versions(), 2, quiet)
            chosen[kernel] = {name: min(times, key=times.__getitem__) for name, times in tuner.times.items()}
        final = Tuner(case.plan, {name: [] for name in case.convs}, builder, 1, Packs())
        final.measure([[version] for version in chosen.values()], rounds, quiet)
    return {
        kernel: {name: (schedule, final.times[name][schedule]) for name, schedule in version.items()}
        for kernel, version in chosen.items()
    }


def table(case: Case, measured: dict[str, dict[str, tuple[Schedule, float]]]) -> str:
    """One line per layer and kernel: time, useful GFLOP/s, the first kernel's time over this one's, tile, chunk."""
    lines = [f"{'layer':32}{'kernel':15}{'ms':>8}{'GFLOP/s':>9}{'ratio':>7}  tile  chunk"]
    for name, conv in case.convs.items():
        _, height, width = case.plan.graph.shapes[name]
        flop = 2 * int(np.count_nonzero(conv.weight)) * height * width
        for kernel, layers in measured.items():
            schedule, ms = layers[name]
            ratio = next(iter(measured.values()))[name][1] / ms
            tile = f"{schedule.tile_rows}x{schedule.tile_columns}"
            lines.append(
                f"{name:32}{kernel:15}{ms:8.3f}{flop / ms / 1e6:9.1f}{ratio:7.2f}  {tile:5}{schedule.cut.chunk:6}"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
