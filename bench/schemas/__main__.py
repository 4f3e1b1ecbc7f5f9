"""``python -m bench.schemas``: writes the published schemas beside this file."""

from __future__ import annotations

import click

from bench.schemas import write


@click.command()
def main() -> None:
    """Generate the JSON schemas of the bench's files from their structs."""
    for path in write():
        click.echo(path.name)


if __name__ == "__main__":
    main()
