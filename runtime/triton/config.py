"""``config.pbtxt`` of a model: what Triton must know of an artifact, as a protobuf in its text form.

The schema is Triton's ``model_config.proto``. A payload that was compiled for one batch size cannot be batched by
Triton, which wants a variable first dimension for that: it gets ``max_batch_size: 0`` and its whole shape. The Python
backend fills batches up itself, so there Triton batches.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, final

import msgspec

from runtime.trt import TENSORRT, read_info

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from runtime.artifact import Artifact

LABELS_FILE = "labels.txt"
_MODEL_FILES: Final = {"tensorrt_plan": "model.plan", "onnxruntime_onnx": "model.onnx", "torch_aoti": "model.pt2"}


class Kind(msgspec.Struct, frozen=True):
    """Who runs a model in Triton: its ``backend``, ``platform`` (none for Python), and the payload's file."""

    backend: str
    platform: str = ""

    @property
    def file(self) -> str:
        """The file of the payload that the backend loads; empty for the Python backend, which takes the artifact."""
        return _MODEL_FILES.get(self.platform, "")


PYTHON: Final = Kind("python")


class Options(msgspec.Struct, frozen=True):
    """What the person who exports decides."""

    python: bool = False
    instances: int = 1
    max_delay_us: int = 500


@final
class Enum(str):
    """A word that is not quoted."""

    __slots__ = ()


def kind_of(artifact: Artifact, options: Options) -> Kind:
    """Triton's own backend where there is one for the payload, else the Python backend with this runtime in it."""
    manifest = artifact.manifest
    if options.python or manifest.requirements.ops:  # our ops are Python's
        return PYTHON
    if manifest.engine == "tensorrt" and read_info(artifact.payload).library == TENSORRT:
        return Kind("tensorrt", "tensorrt_plan")
    if manifest.engine == "onnxruntime":
        return Kind("onnxruntime", "onnxruntime_onnx")
    if manifest.engine == "inductor" and "payload/model.pt2" in manifest.files:
        return Kind("pytorch", "torch_aoti")
    return PYTHON


def compute_capability(architecture: str) -> str:
    """``sm_90`` as Triton writes it, ``9.0``."""
    digits = architecture.removeprefix("sm_").rstrip("af")
    return f"{digits[:-1]}.{digits[-1]}"


def plan_file(architecture: str) -> str:
    """The name of the file for one GPU architecture."""
    return f"model_{architecture}.plan"


def config(name: str, artifacts: Sequence[Artifact], kind: Kind, options: Options) -> str:
    """The text of ``config.pbtxt``.

    Args:
        name: the model's, which its folder has too.
        artifacts: one; or several TensorRT plans of one network for several GPU architectures.
        kind: of all of them.
        options: see there.
    """
    manifest = artifacts[0].manifest
    target = manifest.target
    batched = kind == PYTHON
    skip = 1 if batched else 0
    # Triton binds a package's tensors by their place, which it reads from the name
    by_place = kind.platform == "torch_aoti"
    outputs = [
        _tensor(f"OUTPUT__{index}" if by_place else spec.name, spec.shape[skip:])
        for index, spec in enumerate(manifest.outputs)
    ]
    if manifest.classes:
        outputs[0]["label_filename"] = LABELS_FILE
    fields: dict[str, Any] = {"name": name, "backend": kind.backend}
    if kind.platform:
        fields["platform"] = kind.platform
    fields["max_batch_size"] = target.sizes[-1] if batched else 0
    fields["input"] = [_tensor("INPUT__0" if by_place else manifest.input.name, manifest.input.shape[skip:])]
    fields["output"] = outputs
    if batched:
        fields["dynamic_batching"] = {
            "preferred_batch_size": [size for size in target.sizes if size > 1] or [1],
            "max_queue_delay_microseconds": options.max_delay_us,
        }
    device = "KIND_GPU" if target.device == "cuda" else "KIND_CPU"
    fields["instance_group"] = [{"count": options.instances, "kind": Enum(device)}]
    if kind.platform == "tensorrt_plan":
        architectures = [artifact.manifest.target.architecture for artifact in artifacts]
        fields["default_model_filename"] = plan_file(architectures[0])
        fields["cc_model_filenames"] = [
            {"key": compute_capability(architecture), "value": plan_file(architecture)}
            for architecture in architectures
        ]
    fields["parameters"] = [_parameter(key, value) for key, value in _facts(artifacts).items()]
    return "".join(f"# {line}\n" for line in _remarks(artifacts, kind)) + _text(fields, "")


def _tensor(name: str, dims: Sequence[int]) -> dict[str, Any]:
    return {"name": name, "data_type": Enum("TYPE_FP32"), "dims": list(dims)}


def _facts(artifacts: Sequence[Artifact]) -> dict[str, str]:
    """What is of use to know of the model, and to the Python backend: which artifact it must be."""
    manifest = artifacts[0].manifest
    return {
        "st3_digest": ",".join(f"sha256:{artifact.digest}" for artifact in artifacts),
        "st3_artifact": manifest.name,
        "st3_architecture": ",".join(artifact.manifest.target.architecture for artifact in artifacts),
        "st3_threads": str(manifest.target.threads),
        "st3_sparsity": f"{manifest.lineage.sparsity:.4f}",
    }


def _remarks(artifacts: Sequence[Artifact], kind: Kind) -> list[str]:
    manifest = artifacts[0].manifest
    lines = [f"Written by st3 export-triton from the artifact {manifest.name} (engine {manifest.engine})."]
    if kind != PYTHON:
        lines.append(f"Compiled for batch {manifest.target.batch_size}: Triton cannot batch it (with --python it can).")
    if manifest.target.device == "cuda":
        built = ", ".join(artifact.manifest.target.architecture for artifact in artifacts)
        lines.append(f"Runs on GPUs of {built} alone.")
    needs = ", ".join(f"{name} {version}" for name, version in manifest.requirements.packages.items())
    if needs:
        lines.append(f"Built with {needs}: Triton's own must read what that wrote.")
    return lines


def _parameter(key: str, value: str) -> dict[str, Any]:
    return {"key": key, "value": {"string_value": value}}


def _text(fields: Mapping[str, Any], indent: str) -> str:
    """Fields in protobuf's text form."""
    lines = []
    for key, value in fields.items():
        if isinstance(value, dict):
            lines.append(f"{indent}{key} {{\n{_text(value, indent + '  ')}{indent}}}\n")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            lines += [f"{indent}{key} {{\n{_text(item, indent + '  ')}{indent}}}\n" for item in value]
        elif isinstance(value, list):
            lines.append(f"{indent}{key}: [{', '.join(map(str, value))}]\n")
        elif isinstance(value, str) and not isinstance(value, Enum):
            lines.append(f"{indent}{key}: {json.dumps(value)}\n")
        else:
            lines.append(f"{indent}{key}: {value}\n")
    return "".join(lines)
