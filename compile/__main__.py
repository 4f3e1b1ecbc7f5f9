"""``python -m compile``: the compile stage without the ``st3`` command."""

from compile.command import compile_
from runtime.errors import UserError

if __name__ == "__main__":
    try:
        compile_()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
