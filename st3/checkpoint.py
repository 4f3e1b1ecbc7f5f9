"""The checkpoint on disk: what training hands to the compiler.

A checkpoint is a folder::

    checkpoint.json       what it is and how it was made, with the digest of the files below
    weights.safetensors   every parameter and buffer of the baked model, pruned weights exactly +0.0
    graph.pt2             the exported program, batch dimension dynamic, without weights
    log.jsonl             one line per report of the training loop
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import msgspec
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from runtime import files, strict_json
from runtime.data import Preprocessing, sha256_of
from runtime.errors import UserError
from st3.graph import export_graph, load_graph, save_graph
from st3.layers import kind, prunable_layers, weight_name
from st3.parametrization import parametrized
from st3.plan import SparsityPlan
from st3.reach import Beyond, beyond_reach

SCHEMA_VERSION = 4
INFO_FILE = "checkpoint.json"
WEIGHT_FILE = "weights.safetensors"
GRAPH_FILE = "graph.pt2"
LOG_FILE = "log.jsonl"
_AGAIN = "copy the checkpoint again or train again"


class LayerInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One prunable layer. ``weight_name`` is its key in the weight file; ``reason`` says why it stayed dense."""

    name: str
    kind: str
    weight_name: str
    shape: tuple[int, ...]
    nonzeros: int
    pattern: str
    reason: str


class CheckpointInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``checkpoint.json``. Sparsities are fractions of zeros among the prunable weights, accuracy is top-1 in [0, 1].

    ``write_checkpoint`` fills in ``sparsity``, ``layers``, ``beyond`` and ``files``; ``loss`` is the mean over the
    evaluation set.
    ``recipe_digest`` changes with every value of the recipe; ``changes`` are its values that options replaced.
    ``epochs`` and ``steps`` are without fine-tuning. ``precision`` is that of the training's forward and backward pass,
    ``execution`` how its steps were run (``eager``, ``compiled``, ``graph``, joined by ``+``), ``world_size`` on how
    many processes. ``teacher`` and ``start`` are digests of the weights that taught it and that it began with.
    ``selected_step`` is the step whose weights ``held_out`` training pictures chose; ``None`` for the last one's.
    ``model`` and ``model_arguments`` name the network where it is not the recipe's own (``train.network.Reference``).
    ``beyond`` are the parameters that are no prunable layer's, which no sparsity counts.
    Schema 1 had none of ``precision`` to ``selected_step``, schema 2 no ``model``, schema 3 no ``beyond``.
    """

    recipe: str
    method: str
    pattern: str
    plan: SparsityPlan
    target_sparsity: float
    accuracy: float
    loss: float
    evaluation: str
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    seed: int
    epochs: float
    steps: int
    batch_size: int
    device: str
    threads: int
    train_seconds: float
    commit: str
    versions: dict[str, str]
    recipe_digest: str = ""
    sparsity: float = 0.0
    layers: tuple[LayerInfo, ...] = ()
    files: dict[str, str] = {}
    precision: str = "fp32"
    execution: str = "eager"
    world_size: int = 1
    finetune_steps: int = 0
    teacher: str = ""
    start: str = ""
    changes: dict[str, float | str | bool] = {}
    held_out: int = 0
    selected_step: int | None = None
    model: str = ""
    model_arguments: dict[str, int | float | bool | str] = {}
    beyond: tuple[Beyond, ...] = ()
    schema_version: int = SCHEMA_VERSION

    @property
    def prunable(self) -> int:
        """Number of prunable weights, dense layers' too."""
        return sum(math.prod(layer.shape) for layer in self.layers)


def stepless_info(plan: SparsityPlan, pattern: str, **facts: Any) -> CheckpointInfo:
    """What is known of weights whose training st3 did not see: no epochs, no steps, and what ``facts`` say.

    Args:
        plan: what the zeros follow.
        pattern: of the network as a whole.
        facts: the other fields of ``CheckpointInfo``; accuracy, loss, seed and seconds are 0 where they are left out.
    """
    usual: dict[str, Any] = {"accuracy": 0.0, "loss": 0.0, "seed": 0, "train_seconds": 0.0}
    return CheckpointInfo(
        plan=plan,
        pattern=pattern,
        target_sparsity=plan.target,
        epochs=0.0,
        steps=0,
        batch_size=0,
        threads=torch.get_num_threads(),
        **usual | facts,
    )


class Checkpoint(msgspec.Struct, frozen=True):
    """An opened checkpoint: its folder and what ``checkpoint.json`` says."""

    folder: Path
    info: CheckpointInfo

    def weights(self) -> dict[str, Tensor]:
        """Every parameter and buffer by its name in the model, on the CPU."""
        path = self.folder / WEIGHT_FILE
        try:
            return safetensors.torch.load_file(path)
        except Exception as error:  # beside its own error its reader raises what torch and Python do
            raise UserError(f"{path} cannot be read ({error}); {_AGAIN}") from error

    def exported_program(self) -> ExportedProgram:
        """The network in eval mode with its weights.

        One ``float32`` tensor ``(batch, C, H, W)`` in; out come logits, or a dictionary of tensors by their names.
        """
        return load_graph(self.folder / GRAPH_FILE, self.weights())


class _Version(msgspec.Struct):
    schema_version: int


def write_checkpoint(
    folder: Path,
    model: nn.Module,
    info: CheckpointInfo,
    patterns: dict[str, tuple[str, str]],
    log: Path | None = None,
) -> Checkpoint:
    """Write a baked model whole or not at all; an older checkpoint in its place is replaced.

    Args:
        folder: where to.
        model: baked: its prunable layers are plain ones.
        info: everything but what ``write_checkpoint`` takes from the model.
        patterns: ``Pruner.patterns``.
        log: a log file to be copied into the checkpoint.

    Raises:
        UserError: the model still has parametrizations, something else lies there, or the files cannot be written.
    """
    check_place(folder)
    if any(parametrized(layer) for layer in prunable_layers(model).values()):
        raise UserError("the model is not baked: call pruner.bake() before writing the checkpoint")
    program = export_graph(model, info.preprocessing.shape)
    part, old = folder.with_name(f".{folder.name}.part"), folder.with_name(f".{folder.name}.old")
    for leftover in (part, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        save_graph(program, part / GRAPH_FILE)
        # adding +0 turns a -0 into +0, so that a zero is one bit pattern for every reader
        weights = {
            name: (value.detach() + 0 if value.is_floating_point() else value.detach().clone()).cpu().contiguous()
            for name, value in model.state_dict().items()
        }
        safetensors.torch.save_file(weights, part / WEIGHT_FILE)
        if log is not None:
            shutil.copyfile(log, part / LOG_FILE)
        layers = _describe_layers(model, patterns)
        listed = msgspec.structs.replace(info, layers=layers)
        complete = msgspec.structs.replace(
            listed,
            sparsity=1 - sum(layer.nonzeros for layer in layers) / max(1, listed.prunable),
            beyond=beyond_reach(model),
            files={path.name: sha256_of(path) for path in sorted(part.iterdir())},
        )
        (part / INFO_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(complete)) + b"\n")
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
    except (OSError, safetensors.SafetensorError, RuntimeError) as error:  # the last is how torch's writer fails
        reason = str(error).splitlines()[0]
        raise UserError(
            f"the checkpoint {folder} cannot be written ({reason}); make room and repeat the command, with --resume it "
            f"goes on from the saved state"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    return Checkpoint(folder=folder, info=complete)


def check_place(folder: Path) -> None:
    """Raise ``UserError`` where a checkpoint would take the place of something that is none."""
    if not (folder.exists() or folder.is_symlink()):
        return
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; name the folder that the checkpoint is to be")
    # an older version's checkpoint may have had other files, but none has had folders
    ours = (folder / INFO_FILE).is_file()
    others = sorted(path.name for path in folder.iterdir() if not ours or path.is_dir())
    if others:
        raise UserError(
            f"{folder} holds other things than a checkpoint ({others[0]}), which would be lost; name a folder that is "
            f"new, for instance {folder / 'checkpoint'}"
        )


def load_checkpoint(folder: Path, verify: bool = True) -> Checkpoint:
    """Open a checkpoint.

    Args:
        folder: the checkpoint's folder.
        verify: recompute the digest of every file.

    Raises:
        UserError: the folder is no checkpoint, is newer than this version, or a file in it is missing or changed.
    """
    path = folder / INFO_FILE
    if not path.is_file():
        raise UserError(f"{folder} is no checkpoint: {files.what_instead(folder, INFO_FILE, 'st3 train')}")
    try:
        raw = strict_json.read_bounded(path)
        version = strict_json.decode(raw, _Version).schema_version
        if version > SCHEMA_VERSION:
            raise UserError(
                f"{path} has schema {version}, this version reads up to {SCHEMA_VERSION}; update st3 or train again"
            )
        info = strict_json.decode(raw, CheckpointInfo)
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); {_AGAIN}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {_AGAIN}") from error
    for name in (WEIGHT_FILE, GRAPH_FILE):
        if name not in info.files:
            raise UserError(f"{path} does not list {name}; {_AGAIN}")
    for name, digest in info.files.items():
        if Path(name).name != name or not name.isprintable() or name == "..":
            raise UserError(f"{path} names a file outside the checkpoint: {name[:200]!r}; do not use it")
        try:
            size = (folder / name).lstat().st_size
            files.compare(folder, name, size, digest if verify else None)
        except files.NotPlainFileError as error:
            raise UserError(f"{folder / name} {error.strerror}; {_AGAIN}") from error
        except FileNotFoundError as error:
            raise UserError(f"{folder / name} is missing; {_AGAIN}") from error
        except OSError as error:
            raise UserError(f"{folder / name} cannot be read ({error.strerror}); {_AGAIN}") from error
        except ValueError as error:
            raise UserError(f"{folder / name} differs from its digest in {path.name}; {_AGAIN}") from error
    return Checkpoint(folder=folder, info=info)


def _describe_layers(model: nn.Module, patterns: dict[str, tuple[str, str]]) -> tuple[LayerInfo, ...]:
    return tuple(
        LayerInfo(
            name=name,
            kind=kind(layer),
            weight_name=weight_name(name, layer),
            shape=tuple(layer.weight.shape),
            nonzeros=int(torch.count_nonzero(layer.weight)),
            pattern=patterns[name][0],
            reason=patterns[name][1],
        )
        for name, layer in prunable_layers(model).items()
    )
