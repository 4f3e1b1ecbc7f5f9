"""``python -m bench.published README.md``: writes the tables into it; what `make tables` runs. ``--check`` compares."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from bench.published.kinds import check, result_files
from bench.published.readme import with_tables
from bench.published.tables import make_table
from runtime.errors import UserError


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--check", "only_check", is_flag=True, help="Change nothing; exit with 1 where a table differs.")
def main(file: Path, only_check: bool) -> None:
    """Make FILE's result tables from `bench/results`, every file of which is read."""
    for path in result_files():
        check(path)
    text = file.read_text(encoding="utf-8")
    made = with_tables(text, make_table)
    if made == text:
        return
    if only_check:
        raise UserError(f"{file}: its tables are not those of bench/results; `make tables` writes them")
    part = file.with_name(file.name + ".part")
    part.write_text(made, encoding="utf-8")
    part.replace(file)
    click.echo(f"{file}: tables written")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.stderr.write(f"Error: {error}\n")
        raise SystemExit(1) from None
