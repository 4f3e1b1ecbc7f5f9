"""``torch.compile(model, backend="st3")``: chosen formats for the layers of a baked model, Inductor for the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from compile.backend import Effort
from compile.cuda.candidates import offer
from compile.cuda.choice import Choice, place
from compile.cuda.choose import by_measurement, by_model
from compile.cuda.problem import DTYPES
from compile.cuda.sites import Site
from compile.cuda.swap import program_sites, swap_layers
from compile.cuda.tune import Budget, measure_all
from compile.passes.fold_batchnorm import fold_batchnorm
from compile.passes.order_hidden import order_hidden
from runtime.cuda import gpu
from runtime.errors import UserError

ASSUMED = "sm_90"
"""The architecture that the cost model is asked about on a machine without a GPU."""

Function = Callable[..., Any]


def st3(module: fx.GraphModule, inputs: Sequence[Any]) -> Function:
    """The backend that ``torch.compile`` calls with the graph that it traced.

    Weights are taken as they are now: the model must be baked, in eval mode, and called under ``torch.no_grad`` or
    ``torch.inference_mode``. On a GPU each layer's formats are measured, and remembered; elsewhere a cost model
    chooses.

    Raises:
        UserError: gradients are wanted.
    """
    if torch.is_grad_enabled() and any(isinstance(value, Tensor) and value.requires_grad for value in inputs):
        raise UserError(
            "torch.compile(backend='st3') is for inference: bake the model (pruner.bake()), call model.eval(), and "
            "run it under torch.no_grad() or torch.inference_mode()"
        )
    constants = _constants(module, inputs)
    kept = [index for index, name in enumerate(_placeholders(module)) if name not in constants]
    given = tuple(inputs[index] for index in kept)
    swapped = swap(_exported(_with_constants(module, constants), given))
    from torch._inductor.compile_fx import compile_fx

    with torch.no_grad():
        run: Any = compile_fx(swapped, list(given))
    return lambda *arguments: run(*(arguments[index] for index in kept))


def swap(module: fx.GraphModule) -> fx.GraphModule:
    """A program of torch's ops with every layer of constant weights in the format that was chosen for it."""
    dtypes = {str(value.dtype).removeprefix("torch.") for value in module.parameters()} & set(DTYPES)
    if dtypes - {"float32"}:
        order_hidden(module)
    found: dict[str, Site] = {}
    for dtype in sorted(dtypes):
        sites = program_sites(module, dtype)
        found |= {name: site for name, site in sites.items() if _dtype_of(module, name) == DTYPES[dtype]}
    choices = choose(found, Effort(tune=gpu.architecture() is not None))
    device = next(iter(module.parameters())).device if found else torch.device("cpu")
    layers: dict[str, nn.Module] = {
        name: place(site, choices[name].candidate).to(device) for name, site in found.items()
    }
    return swap_layers(module, layers)


def choose(sites: dict[str, Site], effort: Effort) -> dict[str, Choice]:
    """As for an artifact, layer by layer; the whole network is not measured."""
    budget = Budget()
    offers = {name: offer(site, budget.most) for name, site in sites.items()}
    if not effort.tune:
        return {name: by_model(site, offers[name], gpu.architecture() or ASSUMED) for name, site in sites.items()}
    from compile.cuda.stopwatch import GpuStopwatch

    timings = measure_all(sites, offers, GpuStopwatch(budget), effort.report)
    return {name: by_measurement(offers[name], timings[name]) for name in sites}


def _placeholders(module: fx.GraphModule) -> list[str]:
    return [node.name for node in module.graph.nodes if node.op == "placeholder"]


def _constants(module: fx.GraphModule, inputs: Sequence[Any]) -> dict[str, Tensor]:
    """The inputs that are weights and statistics of the model, which dynamo passes like any other."""
    found = {}
    nodes = [node for node in module.graph.nodes if node.op == "placeholder"]
    for node, value in zip(nodes, inputs, strict=True):
        static = "_dynamo_static_input_type" in node.meta.get("tensor_dict", {})
        if isinstance(value, nn.Parameter) or (isinstance(value, Tensor) and static):
            found[node.name] = value.detach()
    return found


def _with_constants(module: fx.GraphModule, constants: dict[str, Tensor]) -> fx.GraphModule:
    """The same graph with these inputs as parameters of its own."""
    made = fx.GraphModule(module, fx.Graph())
    graph, values = fx.Graph(), dict[fx.Node, Any]()
    for node in module.graph.nodes:
        if node.op == "placeholder" and node.name in constants:
            made.register_parameter(node.name, nn.Parameter(constants[node.name], requires_grad=False))
            values[node] = graph.get_attr(node.name)
        elif node.op == "output":
            graph.output(fx.map_arg(node.args[0], lambda n: values[n]))
        else:
            values[node] = graph.node_copy(node, lambda n: values[n])
    made.graph = graph
    return made.eval()


def _exported(module: fx.GraphModule, inputs: tuple[Any, ...]) -> fx.GraphModule:
    """The graph in torch's own ops, batch normalisation folded, shapes known."""
    with torch.no_grad():
        program = torch.export.export(module, inputs).module(check_guards=False)
        fold_batchnorm(program)
        return torch.export.export(program, inputs).module(check_guards=False)


def _dtype_of(module: fx.GraphModule, name: str) -> torch.dtype:
    node = next(node for node in module.graph.nodes if node.name == name)
    value: Tensor = node.meta["val"]
    return value.dtype
