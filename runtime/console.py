"""What a command says on stderr while it works: lines as they are, and on a terminal a mark that turns."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console


def say(console: Console, text: str) -> None:
    """A line as it is: not coloured, no part of it taken for markup, and however long not broken."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def working(what: str, silent: bool = False, steps: bool = False) -> Iterator[Callable[[str], None]]:
    """Show that something takes its time, and let it tell what it is at.

    On a terminal a mark turns beside ``what`` and what was told last. In a file or a pipe nothing turns: there ``what``
    is a line.

    Args:
        what: such as ``"compiling resnet50"``.
        silent: without the line.
        steps: all that is told is a line, too.
    """
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True)
    if console.is_terminal:
        with console.status(escape(what)) as status:
            yield lambda text: status.update(escape(f"{what}: {text}"))
        return
    if not silent:
        say(console, what)
    yield lambda text: say(console, text) if steps and not silent else None
