"""The command ``st3 report``: of one session, or of two side by side."""

from __future__ import annotations

import os
from pathlib import Path

import click

from bench.measurement_file import read_measurements
from runtime.errors import UserError


@click.command()
@click.argument("measurements", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--compare", "comparing", is_flag=True, help="Set two measurement files side by side.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the reports.  [default: that of the last file]")
@click.option("--json", "as_json", is_flag=True, help="Print the JSON on the terminal too, and nothing else.")
def report(measurements: tuple[Path, ...], comparing: bool, out: Path | None, as_json: bool) -> None:
    """Write report.html, .md, .csv and .json from MEASUREMENTS.

    With --compare two files, A and B: compare.html, .md, .csv and .json say what is faster in B than in A, and
    call a difference below what the sessions can tell apart none. What differs in the evaluation set, the recipe,
    the device, the batch size or the threads is not compared.
    """
    wanted = 2 if comparing else 1
    if len(measurements) != wanted:
        raise UserError(
            f"{len(measurements)} measurement files were given, and "
            f"{'--compare needs two, A and B' if comparing else 'one makes a report; add --compare to compare two'}"
        )
    folder = out or measurements[-1].parent
    if comparing:
        _compare(measurements, folder, as_json)
    else:
        _report(measurements[0], folder, as_json)


def link_between(folder: Path, file: Path) -> str:
    """The way from a folder to a file, as a page in that folder links it."""
    from urllib.parse import quote

    return quote(Path(os.path.relpath(file.resolve(), folder.resolve())).as_posix())


def _report(path: Path, folder: Path, as_json: bool) -> None:
    from bench.report.terminal import print_session
    from bench.report.write import write_report

    session = read_measurements(path)
    write_report(session, path.name, folder, link_between(folder, path))
    print_session(session, path, as_json, f"report: {folder / 'report.html'} (also .md, .csv, .json)")


def _compare(paths: tuple[Path, ...], folder: Path, as_json: bool) -> None:
    from bench.report.compare import compare
    from bench.report.compare_report import write_comparison
    from bench.report.terminal import show_comparison, terminal
    from bench.report.write import encode

    first, second = map(read_measurements, paths)
    comparison = compare(first, second, _names(paths))
    links = (link_between(folder, paths[0]), link_between(folder, paths[1]))
    write_comparison(comparison, folder, links)
    if as_json:
        click.echo(encode(comparison), nl=False)
        return
    show_comparison(terminal(), comparison)
    click.echo(f"\ncomparison: {folder / 'compare.html'} (also .md, .csv, .json)")


def _names(paths: tuple[Path, ...]) -> tuple[str, str]:
    """The files' names; with their folders where the names are the same."""
    first, second = (path.resolve() for path in paths)
    if first.name != second.name:
        return first.name, second.name
    return f"{first.parent.name}/{first.name}", f"{second.parent.name}/{second.name}"
