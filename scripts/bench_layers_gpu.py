"""Times every GPU format against dense, layer by layer of a network: one JSON line per candidate, one short table.

Dense is the best of what the format ``dense`` has: convolution, bias and ReLU as torch's ops, cuDNN's fused kernel,
cuDNN with one pass for the epilogue, cuBLAS. All candidates of a layer are CUDA graphs that take turns, on copies of
inputs and weights that together do not fit into the second-level cache, as in a network.

    python scripts/bench_layers_gpu.py --network resnet50 --batch 32 128 --weights 2:4 --out layers.jsonl
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compile.cuda.candidates import offer
from compile.cuda.choice import Candidate, place
from compile.cuda.format import DENSE, format_names
from compile.cuda.problem import ConvProblem
from compile.cuda.sites import Site
from compile.cuda.stopwatch import build_ahead
from compile.passes.fours import order_for
from runtime.cuda import gpu
from runtime.cuda.replay import replay_us
from train.densities import LayerSize, densities, parse_weights
from train.untrained import prune

TWO_OF_FOUR = "2:4"
CALLS = 16  # in a graph, at least
MOST_COPIES = 16
CHECKED_PICTURES = 2


class Layer(msgspec.Struct):
    """A kind of layers of a network: its first name, how often it is there, and what it computes."""

    name: str
    count: int
    problem: ConvProblem


class Run(msgspec.Struct):
    """A candidate and what was measured of it."""

    candidate: Candidate
    graph: torch.cuda.CUDAGraph
    kept: list[nn.Module]  # the graph reads their buffers
    error: float
    samples_us: list[float] = msgspec.field(default_factory=list)

    @property
    def us(self) -> float:
        """The median."""
        return statistics.median(self.samples_us)


def main() -> None:
    """See the module."""
    given = _arguments()
    if given.dry_run:
        rehearse(given)
        return
    gpu.prepare(given.dtype)
    cards = f"{gpu.name()}, {', '.join(f'{key} {value}' for key, value in gpu.versions().items())}, {given.dtype}"
    names = [name for name in given.formats if name != DENSE]
    heads = "".join(f"{name + ' us':>19}{'x':>6}" for name in names)
    sys.stdout.write(f"{cards}\n{'layer':24}{'n':>3}{'batch':>6} {'weights':8}{'dense us':>9}{heads}  best\n")
    for batch in given.batch:
        for weights in given.weights:
            totals = [bench(layer, weights, names, given) for layer in layers_of(given, batch)]
            dense, chosen = (sum(pair[i] for pair in totals) for i in (0, 1))
            end = (
                f"{dense:9.1f} us dense, {chosen:9.1f} us chosen: {dense / chosen:.3f}x" if totals else "no such layer"
            )
            sys.stdout.write(f"{'all layers alone':24}{'':3}{batch:6} {weights:8}{end}\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet50", help="a torchvision model")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--batch", type=int, nargs="+", default=[32])
    parser.add_argument("--dtype", default="float16", choices=["float16", "bfloat16", "float32"])
    parser.add_argument("--weights", nargs="+", default=[TWO_OF_FOUR], help="2:4, u_90, st3_95, ...")
    parser.add_argument("--formats", nargs="+", default=format_names(), choices=format_names(), metavar="FORMAT")
    parser.add_argument("--layers", nargs="+", metavar="LAYER", help="only kinds whose first name is among these")
    parser.add_argument("--most", type=int, default=12, help="configurations of a format")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--show", type=int, default=0, help="also print so many of each format's best configurations")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be measured; needs no GPU")
    parser.add_argument("--out", type=Path, help="file to add JSON lines to")
    given = parser.parse_args()
    if not given.dry_run and not torch.cuda.is_available():
        parser.error("torch finds no NVIDIA GPU; --dry-run works without one")
    return given


def rehearse(given: argparse.Namespace) -> None:
    """Print the kinds of layers, and how many candidates each format has for it or why none."""
    for layer in layers_of(given, given.batch[0]):
        site = _site(layer, given.weights[0], given)
        offered = offer(site, given.most, tuple(given.formats))
        counts = ", ".join(f"{len(found)} {name}" for name, found in offered.candidates.items())
        size = "x".join(map(str, layer.problem.input_shape))
        sys.stdout.write(f"{layer.name:24} x{layer.count:<2} {size:18} -> {layer.problem.outputs:<5} {counts}\n")
        for name, reason in offered.refusals.items():
            sys.stdout.write(f"{'':28}no {name}: {reason}\n")


def layers_of(given: argparse.Namespace, batch: int) -> list[Layer]:
    """The kinds of layers, in the order of the network."""
    found: dict[ConvProblem, Layer] = {}
    for name, problem in _problems(given.network, batch, given.side, given.dtype):
        if problem in found:
            found[problem].count += 1
        else:
            found[problem] = Layer(name, 1, problem)
    return [layer for layer in found.values() if not given.layers or layer.name in given.layers]


def _problems(network: str, batch: int, side: int, dtype: str) -> Iterator[tuple[str, ConvProblem]]:
    """From a run on the meta device: a block's last convolution adds the residual, shortcuts and linears lack ReLU."""
    import torchvision

    with torch.device("meta"):
        model = getattr(torchvision.models, network)().eval()
    names = {module: name for name, module in model.named_modules()}
    seen: list[tuple[str, ConvProblem]] = []

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        name = names[module]
        if isinstance(module, nn.Linear):
            rows = inputs[0].numel() // module.in_features
            problem = ConvProblem(rows, module.in_features, 1, 1, module.out_features, dtype=dtype)
        else:
            assert isinstance(module, nn.Conv2d)
            last = name.endswith(_LAST.get(type(model.get_submodule(name.rpartition(".")[0])).__name__, "\0"))
            batch_, channels, height, width = inputs[0].shape
            problem = ConvProblem(
                batch_, channels, height, width, output.shape[1], _pair(module.kernel_size), _pair(module.stride),
                _pair(module.padding), _pair(module.dilation), module.groups,
                "identity" if "downsample" in name else "relu", last, dtype,
            )  # fmt: skip
        seen.append((name, problem))

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(hook)
    with torch.no_grad():
        model(torch.empty(batch, 3, side, side, device="meta"))
    return iter(seen)


_LAST = {"Bottleneck": "conv3", "BasicBlock": "conv2"}


def bench(layer: Layer, weights: str, names: list[str], given: argparse.Namespace) -> tuple[float, float]:
    """Measure one kind of layers, print its line; microseconds of all of its layers, dense and with the fastest."""
    problem, site = layer.problem, _site(layer, weights, given)
    offered = offer(site, given.most, tuple(names))
    candidates = [candidate for found in offered.candidates.values() for candidate in found]
    build_ahead([(site, candidate) for candidate in candidates])
    runs = measure(site, candidates, given.rounds)
    by_format = {name: sorted((r for r in runs if r.candidate.format == name), key=lambda r: r.us) for name in names}
    dense = min((run for run in runs if run.candidate.format == DENSE), key=lambda run: run.us)
    best = min(runs, key=lambda run: run.us)
    cells = [
        f"{own[0].us:19.2f}{dense.us / own[0].us:6.2f}" if own else f"{'-':>19}{'':6}" for own in by_format.values()
    ]
    head = f"{layer.name:24}{layer.count:3}{problem.batch:6} {weights:8}{dense.us:9.2f}"
    what = "dense" if best is dense else f"{best.candidate.describe()}, error {best.error:.1e}"
    sys.stdout.write(f"{head}{''.join(cells)}  {what}\n")
    for own in by_format.values():
        for run in own[: given.show]:
            sys.stdout.write(
                f"{'':26}{run.us:9.2f} {dense.us / run.us:5.2f} {run.error:.1e} {run.candidate.describe()}\n"
            )
    sys.stdout.flush()
    if given.out:
        with given.out.open("a") as file:
            file.writelines(json.dumps(_line(layer, weights, site, run)) + "\n" for run in runs)
    return layer.count * dense.us, layer.count * best.us


def _site(layer: Layer, weights: str, given: argparse.Namespace) -> Site:
    weight = make_weight(layer, weights, given)
    return Site(layer.name, layer.name, weight, torch.randn(layer.problem.outputs), layer.problem)


def _line(layer: Layer, weights: str, site: Site, run: Run) -> dict[str, object]:
    return {
        "time": time.time(), "gpu": gpu.name(), **gpu.versions(), "layer": layer.name, "count": layer.count,
        "weights": weights, "density": float((site.weight != 0).float().mean()),
        "problem": msgspec.to_builtins(layer.problem), "format": run.candidate.format,
        "config": run.candidate.describe(), "error": run.error, "median_us": run.us, "samples_us": run.samples_us,
    }  # fmt: skip


def _pair(sizes: tuple[int, ...] | str) -> tuple[int, int]:
    height, width = map(int, sizes)
    return height, width


def make_weight(layer: Layer, weights: str, given: argparse.Namespace) -> Tensor:
    """Gaussian, pruned by magnitude: two of four inputs, or to the share that a network's plan leaves this layer.

    Of the latter the inputs are put in an order in which they are 2:4, if there is one: the compiler does that, but
    has one order for all layers that read a map.
    """
    problem = layer.problem
    weight = torch.randn(problem.weight_shape, generator=torch.Generator().manual_seed(0))
    if weights == TWO_OF_FOUR:
        channels = weight.shape[1]
        fours = F.pad(weight, (0, 0, 0, 0, 0, -channels % 4))
        fours = fours.reshape(len(weight), -1, 4, *weight.shape[2:])
        weight = fours.scatter(2, fours.abs().argsort(dim=2)[:, :, :2], 0.0).flatten(1, 2)[:, :channels].contiguous()
        share = 0.5
    else:
        import torchvision

        with torch.device("meta"):
            model = getattr(torchvision.models, given.network)()
        sizes = {n: LayerSize(p.numel(), p[0].numel()) for n, p in model.named_parameters() if p.dim() > 1}
        share = densities(parse_weights(weights), sizes)[f"{layer.name}.weight"]
        prune(weight, share)
        order = order_for(weight.numpy())
        if order is not None:
            weight = weight[:, torch.from_numpy(order)].contiguous()
    scaled: Tensor = weight * (2 / (problem.reduction * max(share, 1e-4))) ** 0.5
    return scaled


def measure(site: Site, candidates: list[Candidate], rounds: int) -> list[Run]:
    """All of them in turns; one that cannot run is left out, and said."""
    problem = site.problem
    elements = site.weight.numel() + problem.batch * problem.channels * problem.height * problem.width
    elements += problem.rows * problem.outputs * (2 if problem.residual else 1)
    copies = max(2, min(MOST_COPIES, -(-2 * gpu.l2_bytes() // (elements * problem.element_bytes))))

    def normal(shape: tuple[int, ...]) -> Tensor:
        made = torch.randn(shape, device="cuda").to(problem.torch_dtype)
        return made.contiguous(memory_format=torch.channels_last)

    inputs = [
        (normal(problem.input_shape), normal(problem.output_shape) if problem.residual else None) for _ in range(copies)
    ]
    wanted = expected(site, *inputs[0])
    calls, pool, runs = -(-CALLS // copies) * copies, torch.cuda.graph_pool_handle(), []
    for candidate in candidates:
        try:
            runs.append(capture(site, candidate, inputs, wanted, calls, pool))
        except Exception as error:  # whatever a compiler, a library or a driver raises
            torch.cuda.synchronize()
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            sys.stderr.write(f"{site.layer}: {candidate.describe()} cannot run: {first}\n")
    for turn in range(rounds):
        order = runs if turn % 2 == 0 else runs[::-1]
        # the first keeps the GPU busy while the others are started
        times = replay_us([order[0].graph.replay, *(run.graph.replay for run in order)])[1:]
        for run, us in zip(order, times, strict=True):
            run.samples_us.append(us / calls)
    return runs


def expected(site: Site, x: Tensor, residual: Tensor | None) -> Tensor:
    """The first pictures in float64."""
    problem, on = site.problem, x.device
    wide = x[:CHECKED_PICTURES].double(), site.rounded.to(on).double(), site.bias.to(on).double()
    y = F.conv2d(*wide, problem.stride, problem.padding, problem.dilation, problem.groups)
    y = y if residual is None else y + residual[:CHECKED_PICTURES].double()
    return y.relu() if problem.activation == "relu" else y


def capture(
    site: Site,
    candidate: Candidate,
    inputs: list[tuple[Tensor, Tensor | None]],
    wanted: Tensor,
    calls: int,
    pool: Any,
) -> Run:
    """Check the candidate's result, then its graph of ``calls`` calls on modules and inputs that take turns."""
    first = place(site, candidate).to("cuda")
    modules = [first, *(copy.deepcopy(first) for _ in inputs[1:])]
    turns = [(modules[i % len(inputs)], *inputs[i % len(inputs)]) for i in range(calls)]
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.inference_mode(), torch.cuda.stream(stream):
        for module, x, residual in turns[:3]:
            module(x, residual)
        y = first(*inputs[0])[:CHECKED_PICTURES].double()
    torch.cuda.synchronize()
    error = float((y - wanted).norm() / wanted.norm())
    limit = 1e-4 if site.problem.dtype == "float32" else 2e-2
    assert error < limit, f"its result is wrong: relative error {error:.1e}"
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode(), torch.cuda.graph(graph, pool=pool):
        for module, x, residual in turns:
            module(x, residual)
    return Run(candidate, graph, list(modules), error)


if __name__ == "__main__":
    main()
