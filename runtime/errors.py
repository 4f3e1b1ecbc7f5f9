"""The one exception type that stands for a mistake of the user's, not of ours."""


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
