"""``python -m bench.serve``: the load test of ``st3 serve``."""

import sys

from bench.serve.command import main
from runtime.errors import UserError

if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.stderr.write(f"Error: {error}\n")
        raise SystemExit(2) from None
