"""Times every GPU format against dense, layer by layer of a network: one JSON line per candidate, one short table.

Dense is the best of what the format ``dense`` has: convolution, bias and ReLU as torch's ops, cuDNN's fused kernel,
cuDNN with one pass for the epilogue, cuBLAS. The layers are those that the compiler sees: batch normalisation folded,
ReLU and residual fused, channels in the order in which most weights are 2:4.

    python scripts/bench_layers_gpu.py --network resnet50 --batch 32 128 --weights 2to4 --out layers.jsonl
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import msgspec
import torch
from gpu_networks import FOURS, network_of
from layer_runs import Run, measure

from compile.cuda.body import open_body
from compile.cuda.candidates import offer
from compile.cuda.format import DENSE, format_names
from compile.cuda.problem import ConvProblem
from compile.cuda.sites import Site
from compile.cuda.stopwatch import build_ahead
from runtime.cuda import gpu
from st3.patterns import TWO_OF_FOUR, obeys, reject


class Layer(msgspec.Struct):
    """A kind of layers of a network: its first one, and how often it is there."""

    site: Site
    count: int = 0


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
            totals = [bench(layer, weights, names, given) for layer in layers_of(given, weights, batch)]
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
    parser.add_argument("--weights", nargs="+", default=[FOURS], help="2to4, u_90, st3_95, ...")
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
    for layer in layers_of(given, given.weights[0], given.batch[0]):
        site = layer.site
        offered = offer(site, given.most, tuple(given.formats))
        counts = ", ".join(f"{len(found)} {name}" for name, found in offered.candidates.items())
        size = "x".join(map(str, site.problem.input_shape))
        sys.stdout.write(f"{site.layer:24} x{layer.count:<2} {size:18} -> {site.problem.outputs:<5} {counts}\n")
        for name, reason in offered.refusals.items():
            sys.stdout.write(f"{'':28}no {name}: {reason}\n")


def layers_of(given: argparse.Namespace, weights: str, batch: int) -> list[Layer]:
    """The kinds of layers, in the order of the network: what is computed, and whether on 2:4 weights."""
    found: dict[tuple[ConvProblem, bool], Layer] = {}
    network = network_of(given.network, weights, batch, given.side)
    for site in open_body(network, given.dtype).sites(batch, given.dtype).values():
        fits = not reject(tuple(site.weight.shape), TWO_OF_FOUR) and obeys(site.weight, TWO_OF_FOUR)
        # alone it is given what its problem says, already padded
        alone = msgspec.structs.replace(site, pad=(0, 0, 0, 0), flatten=False)
        found.setdefault((site.problem, fits), Layer(alone)).count += 1
    return [layer for layer in found.values() if not given.layers or layer.site.layer in given.layers]


def bench(layer: Layer, weights: str, names: list[str], given: argparse.Namespace) -> tuple[float, float]:
    """Measure one kind of layers, print its line; microseconds of all of its layers, dense and with the fastest."""
    site = layer.site
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
    head = f"{site.layer:24}{layer.count:3}{site.problem.batch:6} {weights:8}{dense.us:9.2f}"
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
            file.writelines(json.dumps(_line(layer, weights, run)) + "\n" for run in runs)
    return layer.count * dense.us, layer.count * best.us


def _line(layer: Layer, weights: str, run: Run) -> dict[str, object]:
    site = layer.site
    return {
        "time": time.time(), "gpu": gpu.name(), **gpu.versions(), "layer": site.layer, "count": layer.count,
        "weights": weights, "density": float((site.weight != 0).float().mean()),
        "problem": msgspec.to_builtins(site.problem), "format": run.candidate.format,
        "config": run.candidate.describe(), "error": run.error, "median_us": run.us, "samples_us": run.samples_us,
    }  # fmt: skip


if __name__ == "__main__":
    main()
