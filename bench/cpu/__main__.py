"""``python -m bench.cpu``: what ``make bench-cpu`` runs when its artifacts are compiled."""

import sys

from bench.cpu.command import main
from runtime.errors import UserError

if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.stderr.write(f"Error: {error}\n")
        raise SystemExit(2) from None
