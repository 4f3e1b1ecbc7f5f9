"""Compiles small torch modules straight to engines, without a training run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

import st3
from compile.backend import Built, Effort, find_backend
from compile.capture import Captured, capture
from compile.from_checkpoint import TorchNetwork
from runtime.artifact import (
    SCHEMA_VERSION,
    Artifact,
    Lineage,
    Manifest,
    Target,
    TensorSpec,
    Tolerance,
    golden_output,
    list_files,
    open_artifact,
    write_manifest,
)
from runtime.data import Preprocessing
from runtime.engine import Engine, load
from st3.layers import prunable_layers
from st3.outputs import name_outputs
from train.models.resnet_cifar import resnet_cifar


def capture_module(module: nn.Module, shape: tuple[int, int, int], batch_size: int) -> Captured:
    return capture(export_module(module, shape), shape, batch_size)


def export_module(module: nn.Module, shape: tuple[int, int, int]) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1, max=4096)
    return torch.export.export(module.eval(), (torch.zeros(2, *shape),), dynamic_shapes=({0: batch},))


def prune_randomly(module: nn.Module, density: float, seed: int = 0, block: int = 1) -> nn.Module:
    """Zero weights at random, ``block`` output channels together; give batch normalisations statistics that matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        layers = prunable_layers(module).values()
        for child in module.modules():
            for weight in (layer.weight for layer in layers if layer.module is child):
                outputs, *tap = weight.shape
                kept = torch.rand((-(-outputs // block), *tap), generator=generator) < density
                weight.mul_(kept.repeat_interleave(block, 0)[:outputs])
            if isinstance(child, nn.BatchNorm2d):
                for tensor, low, high in (
                    (child.running_mean, -0.2, 0.2),
                    (child.running_var, 0.5, 1.5),
                    (child.weight, -1.5, 1.5),
                    (child.bias, -0.3, 0.3),
                ):
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
    return module


def assert_same_bits(artifact: Artifact, inputs: np.ndarray, repeats: int) -> None:
    """Any number of threads gives the same bits, each time."""
    results = []
    for threads in (1, 2, 3, 7):
        engine = load(artifact.folder, threads)
        results += [engine.run({"input": inputs})["output"] for _ in range(repeats)]
        engine.close()
    assert all(np.array_equal(result, results[0]) for result in results)


def finish_artifact(
    folder: Path, built: Built, target: Target, inputs: np.ndarray, outputs: np.ndarray | dict[str, np.ndarray]
) -> Artifact:
    """Golden data and manifest for the payload that a backend wrote into a folder; outputs by name, or one."""
    named = outputs if isinstance(outputs, dict) else {"output": outputs}
    write_golden(folder, inputs, named)
    first, *more = (TensorSpec(name, output.shape, "float32") for name, output in named.items())
    channels = inputs.shape[1]
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name=folder.name,
        backend=built.engine,
        engine=built.engine,
        target=target,
        lineage=Lineage("none", "dense", "dense", 0.0, 0.0, 0.0, 0, "unknown", "0" * 64, {}),
        input=TensorSpec("input", inputs.shape, "float32"),
        output=first,
        more_outputs=tuple(more),
        classes=(),
        preprocessing=Preprocessing(inputs.shape[1:], (0.5,) * channels, (0.25,) * channels),
        layers=(),
        tolerance=Tolerance(1e-4),
        requirements=built.requirements,
        files=list_files(folder),
    )
    write_manifest(folder, manifest)
    return open_artifact(folder)


def write_golden(folder: Path, inputs: np.ndarray, outputs: dict[str, np.ndarray]) -> None:
    """Golden data as ``lower`` writes them before a backend builds."""
    (folder / "golden").mkdir(exist_ok=True)
    np.save(folder / "golden/inputs.npy", inputs)
    for index, output in enumerate(outputs.values()):
        np.save(folder / golden_output(index), output)


def answers(module: nn.Module, inputs: np.ndarray) -> dict[str, np.ndarray]:
    """What torch says, by the names that an artifact gives its outputs."""
    with torch.no_grad():
        return {name: output.numpy() for name, output in name_outputs(module.eval()(torch.from_numpy(inputs)))}


class Compiler:
    """Builds artifacts in a temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0

    def artifact(
        self,
        module: nn.Module,
        shape: tuple[int, int, int],
        batch_size: int | tuple[int, ...] = 1,
        backend: str = "native",
        isa: str = "native",
        threads: int = 1,
        tune: bool = False,
        dtype: str = "float32",
    ) -> Artifact:
        self.count += 1
        folder = self.folder / f"artifact{self.count}"
        folder.mkdir()
        sizes = batch_size if isinstance(batch_size, tuple) else (batch_size,)
        largest = sizes[-1]
        network = TorchNetwork(export_module(module, shape), shape, largest)
        plugin = find_backend(backend)
        target = Target("cpu", plugin.architecture(isa), dtype, largest, threads, sizes)
        inputs = np.random.default_rng(5).standard_normal((largest, *shape)).astype(np.float32)
        outputs = answers(module, inputs)
        write_golden(folder, inputs, outputs)
        built = plugin.build(network, target, folder, Effort(tune=tune))
        return finish_artifact(folder, built, target, inputs, outputs)

    def engine(self, module: nn.Module, shape: tuple[int, int, int], batch_size: int = 1, **options: object) -> Engine:
        artifact = self.artifact(module, shape, batch_size, **options)
        return load(artifact.folder)

    def deviation(
        self, module: nn.Module, shape: tuple[int, int, int], batch_size: int = 1, **options: object
    ) -> float:
        """Largest difference from torch, relative to the largest output."""
        engine = self.engine(module, shape, batch_size, **options)
        inputs = np.random.default_rng(7).standard_normal((batch_size, *shape)).astype(np.float32)
        expected = answers(module, inputs)
        result = engine.run({"input": inputs})
        engine.close()
        assert list(result) == list(expected)
        assert [output.shape for output in result.values()] == [output.shape for output in expected.values()]
        return max(
            float(np.abs(result[name] - output).max() / max(np.abs(output).max(), 1e-30))
            for name, output in expected.items()
        )


def write_checkpoint(folder: Path, method: str, sparsity: float, pattern: str = "unstructured") -> Path:
    """A ResNet-8 of width 8 that nobody trained."""
    torch.manual_seed(0)
    model = resnet_cifar(depth=8, width=8, channels=1, classes=10)
    pruner = st3.attach(model, st3.SparsityPlan(sparsity=sparsity, pattern=pattern), method=method)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.weight.normal_(1, 0.4)
    pruner.step(1.0)
    pruner.bake()
    info = checkpoint_info(method, pruner.plan, (1, 28, 28))
    return st3.write_checkpoint(folder, model, info, pruner.patterns).folder


def checkpoint_info(method: str, plan: st3.SparsityPlan, shape: tuple[int, int, int]) -> st3.CheckpointInfo:
    """What ``checkpoint.json`` says of a network that nobody trained."""
    return st3.CheckpointInfo(
        recipe="test",
        method=method,
        pattern=plan.pattern if plan.target else "dense",
        plan=plan,
        target_sparsity=plan.target,
        accuracy=0.5,
        loss=1.0,
        evaluation="none",
        preprocessing=Preprocessing(shape, (0.3,) * shape[0], (0.3,) * shape[0]),
        classes=tuple("abcdefghij"),
        seed=0,
        epochs=1,
        steps=1,
        batch_size=1,
        device="cpu",
        threads=1,
        train_seconds=1.0,
        commit="unknown",
        versions={"torch": str(torch.__version__)},
    )
