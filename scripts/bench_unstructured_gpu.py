"""Times the unstructured GPU formats against cuDNN, layer by layer, on the convolutions of ResNet-50.

Every candidate is a CUDA graph of calls on rotating inputs; graphs are replayed in turns and medians compared. Dense is
cuDNN with benchmark on, without bias; ours add theirs. One JSON line per candidate, then one table.

    python scripts/bench_unstructured_gpu.py --dtype float32 --weights u_90 --batch 32 --layers layer1.0.conv2
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor

from compile.cuda.format import find_format
from compile.cuda.problem import ConvProblem
from train.densities import LayerSize, densities, parse_weights
from train.untrained import prune

CALLS = 12  # in a graph
BUFFERS = 4  # inputs that take turns
LAYERS = {  # channels, height, outputs, kernel, stride
    "conv1": (3, 224, 64, 7, 2),
    "layer1.0.conv2": (64, 56, 64, 3, 1),
    "layer1.0.conv3": (64, 56, 256, 1, 1),
    "layer1.1.conv1": (256, 56, 64, 1, 1),
    "layer2.0.conv2": (128, 56, 128, 3, 2),
    "layer2.1.conv1": (512, 28, 128, 1, 1),
    "layer2.1.conv2": (128, 28, 128, 3, 1),
    "layer2.1.conv3": (128, 28, 512, 1, 1),
    "layer3.0.conv2": (256, 28, 256, 3, 2),
    "layer3.1.conv1": (1024, 14, 256, 1, 1),
    "layer3.1.conv2": (256, 14, 256, 3, 1),
    "layer3.1.conv3": (256, 14, 1024, 1, 1),
    "layer4.0.conv2": (512, 14, 512, 3, 2),
    "layer4.0.downsample.0": (1024, 14, 2048, 1, 2),
    "layer4.1.conv1": (2048, 7, 512, 1, 1),
    "layer4.1.conv2": (512, 7, 512, 3, 1),
    "layer4.1.conv3": (512, 7, 2048, 1, 1),
}


class Candidate(msgspec.Struct):
    """One way to run a layer."""

    format: str
    config: str
    call: Callable[[Tensor], Tensor]
    nchw: bool = False
    error: float = -1.0
    samples_us: list[float] = msgspec.field(default_factory=list)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="float16", choices=["float16", "bfloat16", "float32"])
    parser.add_argument("--weights", nargs="+", default=["st3_95"], help="u_90, st3_95, ...")
    parser.add_argument("--batch", type=int, nargs="+", default=[32])
    parser.add_argument("--layers", nargs="+", default=list(LAYERS), choices=list(LAYERS), metavar="LAYER")
    parser.add_argument("--formats", nargs="+", default=["csr", "column_union"])
    parser.add_argument("--most", type=int, default=8, help="configurations of a format, evenly among all")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--all", action="store_true", help="also formats that the layer is rejected by")
    parser.add_argument("--json", type=Path, help="file to add JSON lines to")
    given = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    header = f"{'layer':22}{'batch':>6} {'weights':8}{'density':>8} {'dense us':>9}{'best us':>9}{'ratio':>7}"
    sys.stdout.write(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {given.dtype}\n{header}    error  best\n"
    )
    for batch in given.batch:
        for weights in given.weights:
            for layer in given.layers:
                run(layer, batch, weights, given)


def run(layer: str, batch: int, weights: str, given: argparse.Namespace) -> None:
    """Measure one layer and print its line."""
    problem = problem_of(layer, batch, given.dtype)
    weight = make_weight(layer, weights, problem)
    density = int(torch.count_nonzero(weight)) / weight.numel()
    candidates = dense(problem, weight) + sparse(problem, weight, given)
    measure(candidates, problem, weight, given.rounds)
    lines = []
    for candidate in candidates:
        lines.append({
            "layer": layer, "batch": batch, "dtype": given.dtype, "weights": weights, "density": density,
            "format": candidate.format, "config": candidate.config, "error": candidate.error,
            "median_us": statistics.median(candidate.samples_us), "samples_us": candidate.samples_us,
        })  # fmt: skip
    if given.json:
        with given.json.open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
    lines.sort(key=lambda line: line["median_us"])
    best_dense = min(line["median_us"] for line in lines if line["format"].startswith("dense"))
    ours = [line for line in lines if not line["format"].startswith("dense")]
    for rank, line in enumerate(ours[:1] + [best_of(ours[1:], name) for name in given.formats]):
        if line is not None:
            start = f"{layer:22}{batch:6} {weights:8}{density:8.4f} {best_dense:9.2f}" if rank == 0 else " " * 54
            ratio = best_dense / line["median_us"]
            sys.stdout.write(
                f"{start}{line['median_us']:9.2f}{ratio:7.2f}{line['error']:9.1e}  {line['format']} {line['config']}\n"
            )
    sys.stdout.flush()


def best_of(lines: list[dict], name: str) -> dict | None:
    """The fastest of that format."""
    return next((line for line in lines if line["format"] == name), None)


def problem_of(layer: str, batch: int, dtype: str) -> ConvProblem:
    """The layer as a problem, with ReLU."""
    channels, size, outputs, kernel, stride = LAYERS[layer]
    return ConvProblem(
        batch, channels, size, size, outputs, (kernel, kernel), (stride, stride), (kernel // 2, kernel // 2),
        activation="relu", dtype=dtype,
    )  # fmt: skip


def make_weight(layer: str, weights: str, problem: ConvProblem) -> Tensor:
    """Gaussian, pruned by magnitude to the share that the whole network's plan leaves this layer."""
    share = shares(weights)[f"{layer}.weight"]
    weight = torch.randn(problem.weight_shape, generator=torch.Generator().manual_seed(0))
    weight *= (2 / (problem.reduction * max(share, 1e-4))) ** 0.5
    prune(weight, share)
    return weight.to(problem.torch_dtype)


@functools.cache
def shares(weights: str) -> dict[str, float]:
    """What is left of each layer of ResNet-50."""
    from torchvision.models import resnet50

    with torch.device("meta"):
        model = resnet50()
    sizes = {n: LayerSize(p.numel(), p[0].numel()) for n, p in model.named_parameters() if p.dim() > 1}
    return densities(parse_weights(weights), sizes)


def dense(problem: ConvProblem, weight: Tensor) -> list[Candidate]:
    """CuDNN in both layouts for float32, channels last otherwise; the better one counts."""
    found = []
    for nchw in (False, True) if problem.dtype == "float32" else (False,):
        layout = torch.contiguous_format if nchw else torch.channels_last
        on_gpu = weight.cuda().to(memory_format=layout)

        def call(x: Tensor, on_gpu: Tensor = on_gpu) -> Tensor:
            return F.conv2d(x, on_gpu, None, problem.stride, problem.padding, problem.dilation)

        found.append(Candidate("dense", "nchw" if nchw else "channels_last", call, nchw))
    return found


def sparse(problem: ConvProblem, weight: Tensor, given: argparse.Namespace) -> list[Candidate]:
    """Each format's first configurations."""
    found = []
    for name in given.formats:
        form = find_format(name)
        reason = form.reject(weight.float(), problem)
        if reason and not given.all:
            sys.stderr.write(f"{name}: {reason}\n")
            continue
        buffers = form.pack(weight)
        configs = form.configs(problem)
        for config in configs[:: max(1, len(configs) // given.most)][: given.most]:
            module = form.module(buffers, torch.zeros(problem.outputs), problem, config).cuda()
            text = ",".join(f"{key}={getattr(config, key)}" for key in config.__struct_fields__)
            found.append(Candidate(name, text, module))
    compile_csr(found)
    return found


def compile_csr(candidates: list[Candidate]) -> None:
    """NVRTC on all cores; the ops find the result on disk."""
    from runtime.cuda.csr import source
    from runtime.cuda.nvrtc import cubin as compile_cubin

    arch = "sm_{}{}".format(*torch.cuda.get_device_capability())
    texts = [source(candidate.call.geometry) for candidate in candidates if candidate.format == "csr"]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda text: compile_cubin(text, arch), texts))


def measure(candidates: list[Candidate], problem: ConvProblem, weight: Tensor, rounds: int) -> None:
    """Fill in errors and samples; a candidate that does not run is dropped, and said."""
    inputs = [
        torch.randn(problem.input_shape, device="cuda").to(problem.torch_dtype).to(memory_format=torch.channels_last)
        for _ in range(BUFFERS)
    ]
    wide = [tensor.double() for tensor in (inputs[0], weight.cuda())]
    reference = F.conv2d(*wide, None, problem.stride, problem.padding, problem.dilation)
    graphs = []
    for candidate in list(candidates):
        own = [x.contiguous() for x in inputs] if candidate.nchw else inputs
        try:
            result = candidate.call(own[0]).double()
            wanted = reference if candidate.format == "dense" else reference.relu()
            candidate.error = float((result - wanted).norm() / wanted.norm())
            graphs.append(capture(candidate.call, own))
        except Exception as error:  # whatever a compiler or a driver raises
            sys.stderr.write(f"{candidate.format} {candidate.config}: {str(error)[:300]}\n")
            candidates.remove(candidate)
    for turn in range(rounds + 1):
        for candidate, graph in zip(candidates, graphs, strict=True):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            if turn:
                candidate.samples_us.append(begin.elapsed_time(end) * 1e3 / CALLS)


def capture(call: Callable[[Tensor], Tensor], inputs: list[Tensor]) -> torch.cuda.CUDAGraph:
    """``CALLS`` calls, inputs in turns."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream), torch.no_grad():
        for _ in range(2):
            call(inputs[0])
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), torch.no_grad():
        for i in range(CALLS):
            call(inputs[i % len(inputs)])
    return graph


if __name__ == "__main__":
    main()
