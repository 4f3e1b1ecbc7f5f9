"""What both TensorRT backends write, and what they tell the manifest."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import msgspec
import numpy as np
import onnx
import torch
from onnx import ModelProto

from compile.backend import Built, LayerFacts
from compile.half import underflows
from compile.layers import Layer
from compile.network import Network
from compile.tensorrt.build_log import read_log
from compile.tensorrt.builder import BuiltPlan
from compile.tensorrt.engine_layers import read_inspection
from compile.tensorrt.two_of_four import check_weights
from compile.tensorrt.verdict import Verdict, judge, summary
from runtime.artifact import DeviceProof, Requirements
from runtime.manifest import ORDERED
from runtime.trt import INFO_FILE, PLAN_FILE, Library, PlanInfo


def layer_verdicts(
    network: Network, model: ModelProto, built: BuiltPlan, library: Library, ordered: Collection[str] = ()
) -> tuple[Verdict, ...]:
    """What became of each layer of the network, in its order; ``ordered`` are those whose channels were ordered."""
    names = tuple(layer.name for layer in network.layers())
    inspected = read_inspection(built.inspection)
    verdicts = judge(names, check_weights(model), read_log(built.log), inspected, library)
    return tuple(
        msgspec.structs.replace(verdict, reason=f"{verdict.reason}; {ORDERED}") if verdict.layer in ordered else verdict
        for verdict in verdicts
    )


def write_payload(payload: Path, library: Library, wanted: str, plan: bytes) -> None:
    """The plan and what it is tied to."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    payload.mkdir(parents=True)
    (payload / PLAN_FILE).write_bytes(plan)
    info = PlanInfo(library.key, library.version, wanted, gpu)
    (payload / INFO_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(info)) + b"\n")


def result(network: Network, verdicts: tuple[Verdict, ...], deviations: tuple[float, ...], library: Library) -> Built:
    """What the manifest says of it."""
    return Built(
        engine="tensorrt",
        formats={verdict.layer: (verdict.format, verdict.reason) for verdict in verdicts},
        requirements=Requirements(),  # plan.json has them: a package's name does not say which library it holds
        facts={layer.name: _facts(layer, verdict) for layer, verdict in zip(network.layers(), verdicts, strict=True)},
        proof=DeviceProof(
            device=torch.cuda.get_device_name() if torch.cuda.is_available() else "",
            versions={library.key: library.version, "torch": str(torch.__version__)},
            note=summary(verdicts),
        ),
        deviations=deviations,
    )


def _facts(layer: Layer, verdict: Verdict) -> LayerFacts:
    usable = layer.macs_dense // 2 if verdict.sparse else layer.macs_dense
    return LayerFacts(macs_usable=usable, underflows=underflows(np.asarray(layer.weight)))


def write_source(source: Path, model: ModelProto, built: BuiltPlan, verdicts: tuple[Verdict, ...]) -> None:
    """What a reader may want to see: the fp16 model, all that the builder said, and the layer table."""
    source.mkdir(parents=True)
    onnx.save(model, source / "model.onnx")
    (source / "build.log").write_text("\n".join(built.log) + "\n", encoding="utf-8")
    (source / "layers.json").write_bytes(msgspec.json.format(msgspec.json.encode(verdicts)) + b"\n")
    if built.inspection:
        (source / "inspection.json").write_text(built.inspection, encoding="utf-8")
