"""The one exception type that stands for a mistake of the user's, not of ours."""

from __future__ import annotations

import errno
import os
import re

_ADVICE = {
    errno.ENOSPC: "make room, and run the command again",
    errno.EDQUOT: "make room, and run the command again",
    errno.EROFS: "name a place that can be written",
    errno.EACCES: "name a place that you may use, or change its permissions",
    errno.EPERM: "name a place that you may use, or change its permissions",
    errno.EISDIR: "it is a folder; name a file",
    errno.ENOTDIR: "a part of the path is a file; name a folder",
    errno.EEXIST: "a file is there already; name another place",
    errno.ENAMETOOLONG: "give it a shorter name",
}
"""What the machine can refuse whatever the program does, and what its user does about it."""


class UserError(Exception):
    """Bad input from outside: a file, an option, a machine that lacks something.

    The message is one paragraph for a person: what was given, what is needed, what to do.
    The command line prints it without a traceback and exits with status 2.
    """


class ArtifactError(UserError):
    """An artifact that is damaged, foreign, newer than this runtime, or not runnable on this machine.

    The message may quote what a stranger wrote, so it is made one line without control characters.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(c if c.isprintable() else " " for c in message))


def refused_by_system(error: OSError) -> UserError | None:
    """A full disk, a read-only folder and their like as the user's error; ``None`` where it may be a bug of ours."""
    inside = re.search(r"\[Errno (\d+)\]", str(error))  # what shutil.copytree raises has it in its text alone
    number = error.errno or (int(inside[1]) if inside else 0)
    advice = _ADVICE.get(number)
    if advice is None:
        return None
    place = "" if error.filename is None else f"{error.filename}: "
    return UserError(f"{place}{error.strerror or os.strerror(number)}; {advice}")
