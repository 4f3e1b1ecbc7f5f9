"""Builds a plan through torch-tensorrt, from torch's program instead of an ONNX file."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

import torch
from torch.export import ExportedProgram

from compile.tensorrt.builder import BuiltPlan, inspect_plan, timing_file
from runtime.errors import UserError
from runtime.trt import TENSORRT, Library, find, has_module

INSTALL = "pip install torch-tensorrt (torch 2.11 to 2.14 each have one of their own; torch 2.15 has none)"
_LOGGERS = ("torch_tensorrt", "torch_tensorrt [TensorRT Conversion Context]")


def unable() -> str | None:
    """Why nothing can be built on this machine; ``None`` if something can. Imports nothing."""
    if not has_module("torch_tensorrt"):
        return f"torch-tensorrt is not installed: {INSTALL}; or use --backend tensorrt"
    if not torch.cuda.is_available():
        return "torch-tensorrt builds on the GPU that it builds for, and there is none here; use --backend tensorrt"
    return None


def load() -> tuple[Any, Library]:
    """torch-tensorrt, which cannot be imported without a GPU, and the TensorRT under it.

    Raises:
        UserError: it is missing or does not fit the installed torch or TensorRT.
    """
    refusal = unable()
    if refusal is not None:
        raise UserError(f"--backend torch_tensorrt: {refusal}")
    try:
        module = importlib.import_module("torch_tensorrt")
    except Exception as error:  # it loads shared libraries of torch and TensorRT, each with errors of its own
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"torch-tensorrt is installed and cannot be loaded with torch {torch.__version__} ({first}); {INSTALL}"
        ) from error
    library = find(TENSORRT)
    if library is None:
        raise UserError(f"torch-tensorrt is installed without TensorRT; {INSTALL}")
    return module, library


def build_through_torch(module: Any, library: Library, program: ExportedProgram) -> BuiltPlan:
    """Convert a program of ``half_program`` that was moved to the GPU, whole, with sparse weights allowed.

    Raises:
        UserError: an operator has no converter, or the builder refused.
    """
    assert program.example_inputs is not None
    example = program.example_inputs[0][0]
    with _listening() as lines:
        try:
            plan = module.dynamo.convert_exported_program_to_serialized_trt_engine(
                program,
                arg_inputs=[example],
                sparse_weights=True,
                require_full_compilation=True,
                min_block_size=1,
                timing_cache_path=str(timing_file(library, torch.cuda.get_device_name())),
            )
        except Exception as error:  # it raises whatever failed inside it
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(
                f"torch-tensorrt {module.__version__} cannot build the network: {first}; use --backend tensorrt"
            ) from error
    return BuiltPlan(bytes(plan), tuple(lines), inspect_plan(library, bytes(plan)))


@final
class _Keeper(logging.Handler):
    """Keeps what TensorRT says, as ``[V] text``: torch-tensorrt passes it on to Python's logging."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.DEBUG)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        letter = "V" if record.levelno == logging.DEBUG else record.levelname[0]
        self._lines.append(f"[{letter}] {record.getMessage()}")


@contextmanager
def _listening() -> Iterator[list[str]]:
    """Listen to everything, and print nothing of it."""
    lines: list[str] = []
    keeper = _Keeper(lines)
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
        logger.addHandler(keeper)
    try:
        yield lines
    finally:
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(keeper)
            logger.setLevel(level)
            logger.propagate = propagate
