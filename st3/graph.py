"""The network's graph on disk: an exported program without weights and without pickle."""

from __future__ import annotations

import json
import logging
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from runtime.errors import UserError

_PLAIN = re.compile(
    r"[^/]+/(models/\w+\.json|data/(weights|constants)/\w+_config\.json|data/weights/weight_\d+|"
    r"data/constants/tensor_\d+|archive_format|archive_version|byteorder|\.data/\w+|\.format_version)"
)
_FORMULA = re.compile(r"[\w\s\[\]().,<>=%*+/-]*")
_WORD = re.compile(
    r"Symbol|Integer|Rational|Add|Mul|Pow|Max|Min|Mod|PythonMod|FloorDiv|CeilDiv|CleanDiv|Identity|positive|negative|"
    r"integer|real|nonnegative|nonzero|True|False|L|args|kwargs|size|and|or|not|[suz]\d+"
)
_SAMPLE = re.compile(r"[^/]+/data/sample_inputs/\w+\.pt")


def export_graph(model: nn.Module, shape: tuple[int, int, int]) -> ExportedProgram:
    """Export a model in eval mode with a dynamic batch dimension named ``batch``.

    Args:
        model: takes one ``float32`` tensor ``(B, C, H, W)``; its mode is restored afterwards.
        shape: ``(C, H, W)`` of a picture.
    """
    training = model.training
    device = next(model.parameters()).device
    # two pictures: an example of one would be taken for a constant
    example = torch.zeros(2, *shape, device=device)
    try:
        return torch.export.export(model.eval(), (example,), dynamic_shapes=({0: Dim("batch", min=1, max=65535)},))
    finally:
        model.train(training)


def save_graph(program: ExportedProgram, path: Path) -> None:
    """Write a program without its weights, which lie beside it as safetensors; the program is used up.

    Each weight is replaced by a view that repeats one zero, which takes four bytes, and the example input, which
    would be pickled, is left out.
    """
    for name, value in program.state_dict.items():
        empty = torch.zeros((), dtype=value.dtype).expand(value.shape)
        program.state_dict[name] = nn.Parameter(empty, requires_grad=False) if _is_parameter(value) else empty
    program.example_inputs = None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No complete tensor found")  # the repeated zeros, on purpose
        torch.export.save(program, path)
    refuse_code(path)


def load_graph(path: Path, weights: dict[str, Tensor]) -> ExportedProgram:
    """Read a program and give it its weights.

    Raises:
        UserError: the file is damaged, holds pickled data, or does not fit the weights.
    """
    refuse_code(path)
    logger = logging.getLogger("torch.export")
    level = logger.level
    logger.setLevel(logging.ERROR)  # older torch warns that the archive has no example input
    try:
        program = torch.export.load(path)
    except Exception as error:  # torch raises many types; all mean that this file cannot be read
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} cannot be read by torch {torch.__version__}: {first}; train again") from error
    finally:
        logger.setLevel(level)
    for name, value in program.state_dict.items():
        given = weights.get(name)
        if given is None or given.shape != value.shape or given.dtype != value.dtype:
            found = "nothing" if given is None else f"{given.dtype} {tuple(given.shape)}"
            raise UserError(f"{path} needs the weight {name} {value.dtype} {tuple(value.shape)}, found {found}")
        program.state_dict[name] = nn.Parameter(given, requires_grad=False) if _is_parameter(value) else given
    return program


def refuse_code(path: Path) -> None:
    """Let only plain tensors and JSON through: loading a pickle would run whatever code its writer chose.

    Torch also evaluates the formulas of dynamic sizes as Python, so these may hold nothing but known functions.

    Raises:
        UserError: the archive is damaged or holds anything else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                plain = _PLAIN.fullmatch(entry.filename) or (_SAMPLE.fullmatch(entry.filename) and not entry.file_size)
                if not plain:
                    raise UserError(f"{path} holds {entry.filename}, which may be pickled code; do not use this file")
                if entry.filename.endswith("_config.json"):
                    entries = json.loads(archive.read(entry)).get("config", {}).values()
                    if any(item.get("use_pickle", True) for item in entries):
                        raise UserError(f"{path} holds pickled tensors; do not use this file")
                if "/models/" in entry.filename:
                    for formula in _formulas(json.loads(archive.read(entry))):
                        _refuse_formula(path, formula)
    except (zipfile.BadZipFile, ValueError, AttributeError, OSError) as error:
        raise UserError(f"{path} is no exported program ({error}); copy the checkpoint again or train again") from error


def _formulas(node: object) -> Iterator[object]:
    """All that torch evaluates in a serialised graph: the sizes that depend on the batch, and its guards."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "expr_str":
                yield value
            elif key == "guards_code":
                yield from value
            else:
                yield from _formulas(value)
    elif isinstance(node, list):
        for value in node:
            yield from _formulas(value)


def _refuse_formula(path: Path, formula: object) -> None:
    text = str(formula)
    bare = re.sub(r"'\w*'", "", text)  # names of symbols and inputs
    words = re.findall(r"[A-Za-z_]\w*", bare)
    if not _FORMULA.fullmatch(bare) or not all(_WORD.fullmatch(word) for word in words):
        raise UserError(f"{path} holds the formula {text[:80]!r}, which is not one of sizes; do not use this file")


def _is_parameter(value: Tensor) -> bool:
    return isinstance(value, nn.Parameter)
