"""``python -m train``: the training stage without the ``st3`` command."""

import sys

from runtime.errors import UserError
from train.command import train

if __name__ == "__main__":
    try:
        train()
    except UserError as error:
        sys.stderr.write(f"Error: {error}\n")
        raise SystemExit(2) from None
