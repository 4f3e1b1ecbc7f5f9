"""Compiles generated networks into libraries: file by file, on all cores, and each file once."""

from __future__ import annotations

import hashlib
import os
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import final

from compile.native.emit import Source
from compile.native.isa import Isa
from compile.native.toolchain import build_library, build_object


@final
class Builder:
    """Compiles for one instruction set while it is open; networks that share a unit share its machine code.

    Use it as a context manager: what was started is not waited for when something fails.
    """

    def __init__(self, isa: Isa) -> None:
        self.isa = isa
        self._folder = tempfile.TemporaryDirectory(prefix="st3-build-")
        self._pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
        self._objects: dict[str, Future[Path]] = {}

    def __enter__(self) -> Builder:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._folder.cleanup()

    def start(self, source: Source) -> None:
        """Begin to compile all files of a network that are not compiled yet."""
        for name, text in source.files().items():
            self._object(name, text)

    def library(self, source: Source, path: Path) -> Path:
        """Wait for a network's files, compile what was not started, and write the library to ``path``."""
        objects = [self._object(name, text) for name, text in source.files().items()]
        build_library([job.result() for job in objects], path, self.isa)
        return path

    def _object(self, name: str, text: str) -> Future[Path]:
        digest = hashlib.sha256(text.encode()).hexdigest()
        if digest not in self._objects:
            self._objects[digest] = self._pool.submit(self._compile, name, text, digest)
        return self._objects[digest]

    def _compile(self, name: str, text: str, digest: str) -> Path:
        folder = Path(self._folder.name) / digest
        folder.mkdir()
        source, result = folder / name, folder / f"{name}.o"
        source.write_text(text, encoding="utf-8")
        build_object(source, result, self.isa)
        return result
