"""The layers of a built plan, and which nodes of the model each of them computes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

_METADATA = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_TORCH = re.compile(r"\[[A-Z_]+\]-\[aten_ops\.[^\]]+\]-\[((?:[^\[\]]|\[[^\]]*\])+)\]")
# a kernel that only moves or casts data bears the names of the nodes around it as well
_MULTIPLIES = re.compile(r"conv|correlation|gemm|matrix|matmul|fusion|fully|myelin", re.IGNORECASE)
# TensorRT for RTX chooses a kernel when the plan is loaded; until then this stands for it
_PLACEHOLDERS = ("", "__myelin_CASK_STUB")


class EngineLayer(msgspec.Struct, frozen=True):
    """One layer of a plan: ``tactic`` is the kernel's name where it is known, ``nodes`` are names of the model's."""

    name: str
    kind: str
    tactic: str
    nodes: tuple[str, ...]

    @property
    def kernel(self) -> str:
        """The tactic, or nothing where it only stands for one to come."""
        return "" if self.tactic in _PLACEHOLDERS else self.tactic

    @property
    def is_sparse(self) -> bool:
        """Whether the kernel computes with sparse weights; its name is the only sign of that in a plan."""
        return "sparse" in self.tactic.lower() or "spgemm" in self.tactic.lower()


def node_names(name: str, metadata: str) -> tuple[str, ...]:
    """The model's nodes in a layer of this name.

    The metadata lists them as ``[ONNX Layer: NODE]``; without it a fused layer's name joins them with `` + ``.
    torch-tensorrt names a layer ``[CONVOLUTION]-[aten_ops.convolution.default]-[PATH/OF/MODULE/fx_node]``.
    """
    listed = _METADATA.findall(metadata)
    if listed:
        return tuple(dict.fromkeys(listed))
    from_torch = _TORCH.findall(f"{name} {metadata}")
    if from_torch:
        return tuple(dict.fromkeys(_module_of(path) for path in from_torch))
    return tuple(part.strip() for part in name.split(" + "))


def _module_of(path: str) -> str:
    """``L['self'].layer1.0.conv1/convolution_2`` or ``layer1/0/conv1/convolution_2`` is ``layer1.0.conv1``."""
    module = path.rpartition("/")[0].replace("/", ".")
    return re.sub(r"^(L\['self'\]\.)?(body\.)?", "", module)


def by_node(layers: Iterable[EngineLayer]) -> dict[str, EngineLayer]:
    """The layer that computes each node: of several that name it the first that multiplies, else the last."""
    found: dict[str, EngineLayer] = {}
    for layer in layers:
        for node in layer.nodes:
            if node not in found or not _MULTIPLIES.search(found[node].kind):
                found[node] = layer
    return found


def read_inspection(text: str) -> tuple[EngineLayer, ...]:
    """The layers in the engine inspector's JSON; empty where there is none.

    With less than detailed verbosity a layer is nothing but its name.
    """
    if not text:
        return ()
    found = msgspec.json.decode(text.encode()).get("Layers", [])
    return tuple(_engine_layer(layer) for layer in found)


def _engine_layer(layer: str | dict[str, Any]) -> EngineLayer:
    if isinstance(layer, str):
        return EngineLayer(layer, "", "", node_names(layer, ""))
    name = str(layer.get("Name", ""))
    return EngineLayer(
        name=name,
        kind=str(layer.get("LayerType", "")),
        tactic=str(layer.get("TacticName", "")),
        nodes=node_names(name, str(layer.get("Metadata", ""))),
    )
