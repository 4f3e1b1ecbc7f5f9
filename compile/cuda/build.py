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
from compile.cuda.body import Body, open_body
from compile.cuda.candidates import offer
from compile.cuda.choice import Choice, place
from compile.cuda.choose import by_measurement, by_model
from compile.cuda.errors import Errors, emulated, errors, exact
from compile.cuda.results import Shapes
from compile.cuda.sites import Site
from compile.cuda.tune import Budget, measure_all
from compile.network import Network
from runtime.artifact import GOLDEN_INPUTS, DeviceProof, Requirements, Target, golden_output
from runtime.cuda import gpu, nvrtc
from runtime.cuda.replay import Replay
from runtime.errors import UserError
from runtime.manifest import ORDERED

_EMULATED_PICTURES = 4


class Job(msgspec.Struct, frozen=True):
    """One network to build: its body, its layers, the golden data, and whether the target's GPU is here."""

    body: Body
    target: Target
    sites: dict[str, Site]
    inputs: Tensor
    golden: tuple[Tensor, ...]
    here: bool

    def layers(self, choices: Mapping[str, Choice]) -> dict[str, nn.Module]:
        """The modules of what was chosen, by output."""
        return {name: place(site, choices[name].candidate) for name, site in self.sites.items()}

    def network(self, layers: Mapping[str, nn.Module]) -> nn.Module:
        """The network of such modules, where it will run."""
        made = self.body.build(layers, self.target.dtype, self.shapes())
        return made.to("cuda") if self.here else made

    def shapes(self, batch: int | None = None) -> Shapes:
        """The shape of each output, for another number of pictures if one is given."""
        return tuple((batch or len(output), *output.shape[1:]) for output in self.golden)


def build(network: Network, target: Target, folder: Path, effort: Effort) -> Built:
    """Write ``folder/payload``; ``folder/golden`` is there already.

    Raises:
        UserError: the network cannot be read, or its answers are not finite in the target's dtype.
    """
    if target.dtype != "float32":
        effort.report("ordering channels for 2:4")
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
    """Read the network and the golden data."""
    body = open_body(network, target.dtype)
    names = [GOLDEN_INPUTS, *(golden_output(index) for index in range(len(network.output_names)))]
    inputs, *golden = (torch.from_numpy(np.load(folder / name)) for name in names)
    here = gpu.architecture() == target.architecture
    return Job(body, target, body.sites(target.batch_size, target.dtype), inputs, tuple(golden), here)


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
    size = min(_EMULATED_PICTURES, job.target.batch_size) if job.body.any_batch else job.target.batch_size
    shapes = job.shapes(size)
    some = job.body.sites(size, job.target.dtype)
    layers, exact_layers = emulated(some), exact(some)
    rounded = job.body.build(layers, job.target.dtype, shapes)
    reference = job.body.build(exact_layers, "float32", shapes)
    golden = [output[:size] for output in job.golden]
    found = errors(rounded, layers, reference, exact_layers, job.inputs[:size], golden)
    payload.write_program(payload.export(job.network(job.layers(choices)), job.inputs), folder)
    note = f"no {job.target.architecture} here: layers by the cost model, errors emulated, to be compiled when loaded"
    return _built(job, choices, found, {}, DeviceProof(note=note))


def _build_here(job: Job, choices: dict[str, Choice], folder: Path, effort: Effort) -> Built:
    inputs = job.inputs.to("cuda")
    times: dict[str, float] = {}
    note = "not measured (--no-tune)"
    if effort.tune:
        effort.report("measuring whole networks")
        choices, times, note = settle(job, choices, inputs)
    layers = job.layers(choices)
    network = job.network(layers)
    exact_layers = exact(job.sites)
    reference = job.body.build(exact_layers, "float32", job.shapes()).to("cuda")
    golden = [output.to("cuda") for output in job.golden]
    found = errors(network, layers, reference, exact_layers, inputs, golden)
    del reference, exact_layers
    effort.report("compiling with Inductor")
    function, form_note, form_times = write(network, inputs, folder, effort)
    with nvrtc.recorded() as cubins:
        by_layer, seen = proof.kernels_by_layer(network, layers, inputs), proof.kernels_of(function, inputs)
    nvrtc.ship(cubins, folder / nvrtc.SHIPPED)
    # those alone that the payload was seen to start
    names = {name: tuple(kernel for kernel in kernels if kernel in seen) for name, kernels in by_layer.items()}
    made = DeviceProof(gpu.name(), gpu.versions(), times | form_times, "; ".join(filter(None, (note, form_note))))
    return _built(job, choices, found, names, made)


def settle(job: Job, choices: dict[str, Choice], inputs: Tensor) -> tuple[dict[str, Choice], dict[str, float], str]:
    """What the whole network says: the fastest of nested subsets of the sparse choices, and all their times."""
    candidates = whole.versions(choices)
    timings = whole.measure({name: job.network(job.layers(version)) for name, version in candidates.items()}, inputs)
    best = whole.fastest(timings)
    times = {name: round(timing.us, 2) for name, timing in timings.items()}
    if len(candidates) == 1:
        return candidates[best], times, "no sparse kernel was faster for any layer"
    return candidates[best], times, f"{best} is the fastest whole network"


def write(
    network: nn.Module, inputs: Tensor, folder: Path, effort: Effort
) -> tuple[Callable[[Tensor], object], str, dict[str, float]]:
    """Write the faster form of the network: Inductor's package, or the program as it is.

    The program stays where Inductor refuses it, or makes what a CUDA graph, which the engine replays, cannot hold.
    """
    program = payload.export(network, inputs)
    try:
        package = payload.write_package(program, folder)
        Replay(package, inputs)
    except Exception as error:  # Inductor raises whatever failed inside it, CUDA what a graph cannot hold
        (folder / payload.PACKAGE).unlink(missing_ok=True)
        payload.write_program(program, folder)
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        return network, f"the exported program runs as it is, Inductor's package of it does not ({first})", {}
    if not effort.tune:
        return package, "", {}
    timings = whole.measure({"as exported": network, "compiled by Inductor": package}, inputs)
    times = {name: round(timing.us, 2) for name, timing in timings.items()}
    if whole.fastest(timings, "compiled by Inductor") == "compiled by Inductor":
        return package, "", times
    (folder / payload.PACKAGE).unlink()
    payload.write_program(program, folder)
    return network, "as exported is faster than compiled by Inductor", times


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
        reason = f"{choice.reason}; {ORDERED}" if site.layer in job.body.ordered else choice.reason
        formats[site.layer] = choice.candidate.format, reason
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
    if not np.isfinite(found.deviations).all():
        raise UserError(
            f"the network's answers are not finite in {job.target.dtype}: some activation is larger than it holds; "
            f"use --dtype bfloat16 or float32"
        )
    deviations = () if job.target.dtype == "float32" else found.deviations
    return Built("inductor", formats, needs, facts, made, deviations)
