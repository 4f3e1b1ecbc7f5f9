"""``python -m st3``: the ``st3`` command from a source tree that is not installed."""

from st3.cli import main

if __name__ == "__main__":
    main(prog_name="st3")
