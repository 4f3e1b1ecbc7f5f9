"""From a network to the payload of the target cuda: choose, check, measure, write."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from compile.backend import Built, Effort, LayerFacts
from compile.cuda import payload, proof, whole
from compile.cuda.candidates import offer
from compile.cuda.choice import Choice, place
from compile.cuda.choose import by_measurement, by_model
from compile.cuda.errors import Errors, emulated, errors, reference
from compile.cuda.network import GpuNetwork
from compile.cuda.sites import Site, sites
from compile.cuda.tune import Budget, measure_all
from compile.graph import Graph
from compile.network import Network
from compile.passes.simplify import simplify
from runtime.artifact import DeviceProof, Requirements, Target
from runtime.cuda import gpu
from runtime.errors import UserError

_EMULATED_PICTURES = 4


class Job(msgspec.Struct, frozen=True):
    """One network to build: its graph, its layers, the golden data, and whether the target's GPU is here."""

    graph: Graph
    target: Target
    sites: dict[str, Site]
    inputs: Tensor
    golden: Tensor
    here: bool

    def network(self, choices: Mapping[str, Choice]) -> GpuNetwork:
        """The module of what was chosen, where it will run."""
        layers = {name: place(site, choices[name].candidate) for name, site in self.sites.items()}
        made = GpuNetwork(self.graph, layers, self.target.dtype, tuple(self.golden.shape)).eval()
        return made.to("cuda") if self.here else made


def build(network: Network, target: Target, folder: Path, effort: Effort) -> Built:
    """Write ``folder/payload``; ``folder/golden`` is there already.

    Raises:
        UserError: the network holds an operator that the graph lacks, or Inductor refused it.
    """
    job = open_job(network, target, folder)
    if job.here:
        gpu.prepare(target.dtype)
    choices = choose(job, effort)
    place_ = folder / "payload"
    place_.mkdir(parents=True)
    if not job.here:
        return _build_elsewhere(job, choices, place_)
    return _build_here(job, choices, place_, effort)


def open_job(network: Network, target: Target, folder: Path) -> Job:
    """Read the graph and the golden data."""
    graph = simplify(network.graph())
    inputs, golden = (torch.from_numpy(np.load(folder / "golden" / f"{name}.npy")) for name in ("inputs", "outputs"))
    here = gpu.architecture() == target.architecture
    return Job(graph, target, sites(graph, target.batch_size, target.dtype), inputs, golden, here)


def choose(job: Job, effort: Effort) -> dict[str, Choice]:
    """One choice per layer, measured where the target's GPU is here and may be used for that."""
    budget = Budget()
    offers = {name: offer(site, budget.most) for name, site in job.sites.items()}
    if not (job.here and effort.tune):
        return {name: by_model(site, offers[name], job.target.architecture) for name, site in job.sites.items()}
    from compile.cuda.stopwatch import GpuStopwatch

    timings = measure_all(job.sites, offers, GpuStopwatch(budget), effort.report)
    return {name: by_measurement(offers[name], timings[name]) for name in job.sites}


def _build_elsewhere(job: Job, choices: dict[str, Choice], folder: Path) -> Built:
    """Without the GPU: what was modelled, exported; errors of an emulation on some pictures."""
    pictures = min(_EMULATED_PICTURES, job.target.batch_size)
    shape = (pictures, *job.golden.shape[1:])
    rounded = emulated(job.graph, pictures, job.target.dtype, shape)
    found = errors(
        rounded, reference(job.graph, pictures, shape), job.inputs[:pictures], job.golden[:pictures], job.sites
    )
    payload.write_program(payload.export(job.network(choices), job.inputs), folder)
    note = f"no {job.target.architecture} here: layers by the cost model, errors emulated, to be compiled when loaded"
    return _built(job, choices, found, {}, DeviceProof(note=note))


def _build_here(job: Job, choices: dict[str, Choice], folder: Path, effort: Effort) -> Built:
    inputs = job.inputs.to("cuda")
    times: dict[str, float] = {}
    note = "not measured (--no-tune)"
    if effort.tune:
        effort.report("measuring whole networks")
        choices, times, note = settle(job, choices, inputs)
    network = job.network(choices)
    exact = reference(job.graph, job.target.batch_size, tuple(job.golden.shape)).to("cuda")
    found = errors(network, exact, inputs, job.golden.to("cuda"), job.sites)
    del exact
    effort.report("compiling with Inductor")
    function, form_note, form_times = _write(network, inputs, folder, effort)
    names = _kernels(job, network, function, inputs)
    made = DeviceProof(gpu.name(), gpu.versions(), times | form_times, "; ".join(filter(None, (note, form_note))))
    return _built(job, choices, found, names, made)


def settle(job: Job, choices: dict[str, Choice], inputs: Tensor) -> tuple[dict[str, Choice], dict[str, float], str]:
    """What the whole network says: the fastest of nested subsets of the sparse choices, and all their times."""
    candidates = whole.versions(choices)
    timings = whole.measure({name: job.network(version) for name, version in candidates.items()}, inputs)
    best = whole.fastest(timings)
    times = {name: round(timing.us, 2) for name, timing in timings.items()}
    if len(candidates) == 1:
        return candidates[best], times, "no sparse kernel was faster for any layer"
    return candidates[best], times, f"{best} is the fastest whole network"


def _write(
    network: GpuNetwork, inputs: Tensor, folder: Path, effort: Effort
) -> tuple[Callable[[Tensor], Tensor], str, dict[str, float]]:
    """Write the faster form of the network: Inductor's package, or the program as it is if Inductor refuses it."""
    program = payload.export(network, inputs)
    try:
        package = payload.write_package(program, folder)
        with torch.inference_mode():
            package(inputs)
    except Exception as error:  # Inductor raises whatever failed inside it
        (folder / payload.PACKAGE).unlink(missing_ok=True)
        payload.write_program(program, folder)
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        return network, f"Inductor cannot compile the network ({first}): the exported program runs as it is", {}
    if not effort.tune:
        return package, "", {}
    timings = whole.measure({"as exported": network, "compiled by Inductor": package}, inputs)
    times = {name: round(timing.us, 2) for name, timing in timings.items()}
    if whole.fastest(timings, "compiled by Inductor") == "compiled by Inductor":
        return package, "", times
    (folder / payload.PACKAGE).unlink()
    payload.write_program(program, folder)
    return network, "as exported is faster than compiled by Inductor", times


def _kernels(
    job: Job, network: GpuNetwork, function: Callable[[Tensor], Tensor], inputs: Tensor
) -> dict[str, tuple[str, ...]]:
    """Per layer the kernels that it started, of those that the payload was seen to start."""
    by_layer = proof.kernels_by_layer(network, _layer_modules(job, network), inputs)
    seen = proof.kernels_of(function, inputs)
    return {name: tuple(kernel for kernel in kernels if kernel in seen) for name, kernels in by_layer.items()}


def _layer_modules(job: Job, network: GpuNetwork) -> dict[str, nn.Module]:
    pairs = zip(job.graph.nodes, network.nodes, strict=True)
    return {node.output: module for node, module in pairs if node.output in job.sites}


def _built(
    job: Job,
    choices: Mapping[str, Choice],
    found: Errors,
    kernels: Mapping[str, tuple[str, ...]],
    made: DeviceProof,
) -> Built:
    formats, facts = {}, {}
    for name, site in job.sites.items():
        choice = choices[name]
        formats[site.layer] = choice.candidate.format, choice.reason
        facts[site.layer] = LayerFacts(
            macs_usable=None if choice.macs_usable is None else choice.macs_usable // job.target.batch_size,
            kernels=kernels.get(name, ()),
            dense_us=choice.dense_us,
            chosen_us=choice.chosen_us,
            error=found.layers.get(name),
            underflows=site.underflows if job.target.dtype != "float32" else None,
        )
    ops = sorted({choice.candidate.format for choice in choices.values()})
    needs = Requirements(
        system=platform.system(),
        # a package holds code for this processor; the exported program is for any
        machine=platform.machine() if job.here else "",
        packages={"torch": importlib.metadata.version("torch")},
        ops=tuple(ops),
    )
    if not np.isfinite(found.deviation):
        raise UserError(
            f"the network's answers are not finite in {job.target.dtype}: some activation is larger than it holds; "
            f"use --dtype bfloat16 or float32"
        )
    deviation = None if job.target.dtype == "float32" else found.deviation
    return Built("inductor", formats, needs, facts, made, deviation)
