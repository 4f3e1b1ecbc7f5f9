"""Per layer: can it run sparse, does it, and if not, why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from compile.tensorrt.build_log import BuildLog
from compile.tensorrt.engine_layers import EngineLayer, by_node
from compile.tensorrt.two_of_four import WeightCheck
from runtime.trt import RTX, Library
from st3.layers import PROJECTIONS

SPARSE = "semi_structured"
DENSE = "dense"


class Verdict(msgspec.Struct, frozen=True):
    """``eligible`` is whether the weight is 2:4 and, where the builder says so, that it agrees.

    ``reason`` says why the layer has this format; ``kernel`` is the tactic's name where it is known, ``fused`` are the
    other nodes of the model that the same kernel computes.
    """

    layer: str
    eligible: bool
    sparse: bool
    reason: str
    kernel: str = ""
    fused: tuple[str, ...] = ()

    @property
    def format(self) -> str:
        """How the weight lies in the plan."""
        return SPARSE if self.sparse else DENSE


def judge(
    layers: Iterable[str],
    checks: Iterable[WeightCheck],
    log: BuildLog,
    inspected: tuple[EngineLayer, ...],
    library: Library,
) -> tuple[Verdict, ...]:
    """What became of each layer.

    Args:
        layers: the names that the manifest lists.
        checks: the weights of the model that was built, by node; a node has its layer's name.
        log: what the builder said.
        inspected: the plan's layers from the engine inspector, where it could run; else those of the log count.
        library: what built it. TensorRT for RTX chooses its kernels later, when it loads the plan on a GPU.
    """
    weights = {check.node: check for check in checks}
    where = by_node(inspected or log.layers)
    found = (_judge(name, weights.get(name), log, _engine_of(name, where), library) for name in layers)
    return tuple(msgspec.structs.replace(verdict, reason=verdict.reason + _together(verdict)) for verdict in found)


def _engine_of(name: str, where: Mapping[str, EngineLayer]) -> EngineLayer | None:
    """torch-tensorrt names layers by modules, and of attention's projection that is the attention."""
    owner, _, leaf = name.rpartition(".")
    return where.get(name) or (where.get(owner) if f"{leaf}_weight" in PROJECTIONS else None)


def _together(verdict: Verdict) -> str:
    """What else the plan's layer computes: an epilogue without the layer's name before it."""
    parts = sorted(node.removeprefix(f"{verdict.layer}/") for node in verdict.fused)
    return f"; fused with {', '.join(parts)}" if parts else ""


def _judge(
    name: str, weight: WeightCheck | None, log: BuildLog, engine: EngineLayer | None, library: Library
) -> Verdict:
    title = library.title
    kernel = engine.kernel if engine else ""
    fused = tuple(node for node in engine.nodes if node != name and not name.startswith(f"{node}.")) if engine else ()
    named = log.chosen is not None and name in log.chosen.nodes
    if named or (engine is not None and engine.is_sparse):
        return Verdict(name, True, True, f"{title} chose a sparse kernel{_called(kernel)}", kernel, fused)
    if weight is None:
        return Verdict(name, False, False, f"{title} was given no weight of this name to examine", kernel, fused)
    if not weight.fits:
        return Verdict(name, False, False, weight.reason, kernel, fused)
    if log.eligible is not None and name not in log.eligible.nodes and _names_all(log):
        return Verdict(name, False, False, f"2:4, but not eligible according to {title}", kernel, fused)
    return Verdict(name, True, False, _why_dense(log, engine, library), kernel, fused)


def _why_dense(log: BuildLog, engine: EngineLayer | None, library: Library) -> str:
    """Of a layer whose weight is 2:4 and that is not known to run sparse."""
    kernel, title = engine.kernel if engine else "", library.title
    if log.chosen is not None and (log.chosen.nodes or log.chosen.count == 0):
        return f"2:4 and eligible; {title} timed a dense kernel{_called(kernel)} as faster"
    if kernel:
        return f"2:4; {title} runs the dense kernel {kernel}, and its log does not say whether it tried a sparse one"
    if library.key == RTX:
        return f"2:4; {title} chooses the kernel when it loads the plan on a GPU, and says nothing of sparsity"
    inside = f" inside {engine.name}" if engine is not None else ""
    return f"2:4; {title} does not say which kernel runs it{inside}"


def _called(kernel: str) -> str:
    return f" ({kernel})" if kernel else ""


def _names_all(log: BuildLog) -> bool:
    """Whether the list of eligible layers has names: without them its absence from the list says nothing."""
    return log.eligible is not None and (bool(log.eligible.nodes) or log.eligible.count == 0)


def summary(verdicts: Iterable[Verdict]) -> str:
    """One line for a person."""
    known = tuple(verdicts)
    eligible, sparse = sum(v.eligible for v in known), sum(v.sparse for v in known)
    return f"{len(known)} layers: {eligible} can run sparse, {sparse} are known to"
