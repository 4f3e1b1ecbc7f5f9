"""The resume state on disk: all that a killed run needs to go on as if nothing had happened.

Beside the checkpoint lies, while it is being trained, the folder ``.<name>.training``::

    log.jsonl                          one line per report
    state-00000300/tensors.safetensors latent weights, thresholds, statistics, momentum, average, masks, best weights
    state-00000300/state.json          settings, step, digest of the tensors

A state is written under another name, flushed to the disk and renamed, and only then is the one before it removed. The
order of the pictures and all randomness follow from seed and step (``train/seeds.py``), so no generator is saved.
With several processes the first one writes; the folder must be one that all of them see.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import final

import msgspec
import safetensors
import safetensors.torch
from torch import Tensor

from runtime.data import sha256_of
from runtime.errors import UserError
from train.selection import Best
from train.settings import Settings, refuse_difference

STATE_SCHEMA = 2
_TENSORS, _JSON = "tensors.safetensors", "state.json"


class Saved(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``state.json``: ``step`` optimiser steps are done, in ``seconds``; ``scaler`` is the gradient scaler's state.

    ``best`` says which are the best weights so far, where pictures were held out to select them by. ``projections`` is
    ``State.projections``; a run from before there was such a thing does not say it, and leaves them dense to its end.
    """

    schema_version: int
    settings: Settings
    step: int
    seconds: float
    scaler: dict[str, float]
    tensors_sha256: str
    best: Best | None = None
    projections: bool = False


class State(msgspec.Struct, frozen=True):
    """What a trainer needs to go on: tensors by name, the gradient scaler's numbers, the best weights so far.

    ``projections`` says whether those of ``nn.MultiheadAttention`` are pruned and decayed like other linear layers.
    """

    tensors: dict[str, Tensor]
    scaler: dict[str, float]
    best: Best | None = None
    projections: bool = True


@final
class StateStore:
    """The states of one run."""

    def __init__(self, checkpoint: Path) -> None:
        self.folder = checkpoint.with_name(f".{checkpoint.name}.training")
        self.log = self.folder / "log.jsonl"
        self._aside = checkpoint.with_name(f".{checkpoint.name}.training.interrupted")

    def clear(self) -> None:
        """Remove everything."""
        for folder in (self.folder, self._aside):
            shutil.rmtree(folder, ignore_errors=True)

    def set_aside(self) -> str:
        """Begin afresh, but keep the last interrupted run's state; what to tell the user, empty if there was none."""
        if not self._states():
            shutil.rmtree(self.folder, ignore_errors=True)
            return ""
        shutil.rmtree(self._aside, ignore_errors=True)
        self.folder.rename(self._aside)
        return (
            f"an interrupted run's state is set aside as {self._aside}; to go on with it, stop this run, name it "
            f"{self.folder.name} again and give --resume"
        )

    def save(self, settings: Settings, step: int, seconds: float, state: State) -> None:
        """Write the state after ``step`` steps, then remove the older ones.

        Raises:
            UserError: it cannot be written, for instance because the disk is full; the state before it is kept.
        """
        final = self.folder / f"state-{step:08d}"
        try:
            self._write(final, settings, step, seconds, state)
        except (OSError, safetensors.SafetensorError) as error:
            shutil.rmtree(self.folder / "part", ignore_errors=True)
            kept = [path.name for path in self._states()]
            raise UserError(
                f"the state after step {step} cannot be written to {self.folder} ({error}); "
                f"{f'{kept[-1]} is kept' if kept else 'there is no earlier one'}; make room and go on with --resume"
            ) from error
        for older in self._states():
            if older != final:
                shutil.rmtree(older)

    def _write(self, final: Path, settings: Settings, step: int, seconds: float, state: State) -> None:
        part = self.folder / "part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
        safetensors.torch.save_file(contiguous, part / _TENSORS)
        digest = sha256_of(part / _TENSORS)
        saved = Saved(STATE_SCHEMA, settings, step, seconds, state.scaler, digest, state.best, state.projections)
        (part / _JSON).write_bytes(msgspec.json.encode(saved))
        for path in (part / _TENSORS, part / _JSON, part):
            _flush(path)
        shutil.rmtree(final, ignore_errors=True)
        part.rename(final)
        _flush(self.folder)

    def load(self, settings: Settings) -> tuple[Saved, State] | None:
        """The newest state, or ``None`` if the run has not saved one yet.

        Raises:
            UserError: the state is damaged or of a run with other settings.
        """
        states = self._states()
        if not states:
            return None
        newest = states[-1]
        try:
            saved = msgspec.json.decode((newest / _JSON).read_bytes(), type=Saved)
            intact = saved.schema_version == STATE_SCHEMA and sha256_of(newest / _TENSORS) == saved.tensors_sha256
            tensors = safetensors.torch.load_file(newest / _TENSORS) if intact else {}
        except (msgspec.MsgspecError, safetensors.SafetensorError, OSError) as error:
            raise UserError(f"the saved state {newest} cannot be read ({error}); train without --resume") from error
        if not intact:
            raise UserError(f"the saved state {newest} is damaged or of another version; train without --resume")
        refuse_difference(settings, saved.settings, str(self.folder))
        return saved, State(tensors, saved.scaler, saved.best, saved.projections)

    def _states(self) -> list[Path]:
        return sorted(self.folder.glob("state-*"))


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
