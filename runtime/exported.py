"""Looks into an exported program's file before torch loads it: plain tensors and JSON only, no pickle, no formula."""

from __future__ import annotations

import io
import json
import re
import zipfile
from typing import TYPE_CHECKING

from runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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
_MAX_BYTES = 1 << 30  # of a checkpoint's graph, which holds no weights


def read_program(path: Path) -> bytes:
    """The bytes of a file that passes ``refuse_code``; raises ``UserError``."""
    try:
        if not path.is_file() or path.is_symlink():
            raise UserError(f"{path} is no plain file; copy the checkpoint again or train again")
        if path.stat().st_size > _MAX_BYTES:
            raise UserError(f"{path} has {path.stat().st_size:,} bytes, at most {_MAX_BYTES:,} are read; do not use it")
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); copy the checkpoint again or train again"
        ) from error
    refuse_code(path, raw)
    return raw


def refuse_code(path: Path, raw: bytes) -> None:
    """Let only plain tensors and JSON through: loading a pickle would run whatever code its writer chose.

    Torch also evaluates the formulas of dynamic sizes as Python, so these may hold nothing but known functions. Torch
    compresses nothing, so an archive that would unpack to more than it has bytes is none of its.

    Args:
        path: where the bytes came from, for the message.
        raw: the archive.

    Raises:
        UserError: the archive is damaged or holds anything else.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries):
                raise UserError(f"{path} is compressed or encrypted, as torch writes none; do not use this file")
            if sum(entry.file_size for entry in entries) > len(raw) or len({e.filename for e in entries}) < len(
                entries
            ):
                raise UserError(f"{path} has entries that overlap or share a name; do not use this file")
            for entry in entries:
                _refuse_entry(path, archive, entry)
    # what zipfile raises for damage, and json
    except (
        zipfile.BadZipFile,
        ValueError,
        AttributeError,
        TypeError,
        OSError,
        NotImplementedError,
        RecursionError,
    ) as e:
        raise UserError(f"{path} is no exported program ({e}); copy the checkpoint again or train again") from e


def _refuse_entry(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    if not (_PLAIN.fullmatch(entry.filename) or (_SAMPLE.fullmatch(entry.filename) and not entry.file_size)):
        raise UserError(f"{path} holds {entry.filename[:200]!r}, which may be pickled code; do not use this file")
    if entry.filename.endswith("_config.json"):
        entries = json.loads(archive.read(entry)).get("config", {}).values()
        if any(item.get("use_pickle", True) for item in entries):
            raise UserError(f"{path} holds pickled tensors; do not use this file")
    if "/models/" in entry.filename:
        for formula in _formulas(json.loads(archive.read(entry))):
            _refuse_formula(path, formula)


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
