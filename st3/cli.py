"""The ``st3`` command: loads a stage only when one of its commands is called."""

from __future__ import annotations

import difflib
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import click

_COMMANDS = {
    "train": ("train.command:train", "Train a recipe with one sparse training method."),
    "sweep": ("train.sweep_command:sweep", "Train a recipe with several methods, sparsities and seeds; one table."),
    "sparsify": ("train.sparsify_command:sparsify", "Make a trained dense network sparse: tuned, or at once."),
    "compile": ("compile.command:compile_", "Compile checkpoints into artifacts."),
    "bench": ("bench.measure.command:bench", "Measure artifacts: latency, accuracy, memory, size."),
    "report": ("bench.report.command:report", "Write the report of a measurement file, or compare two."),
    "check": ("runtime.command:check", "Replay an artifact's golden inputs."),
    "run": ("runtime.command:run", "Run an artifact on pictures or arrays."),
    "serve": ("runtime.serve.command:serve", "Serve artifacts over HTTP (open inference protocol)."),
    "doctor": ("st3.doctor:doctor", "Say what this machine is and what sparsity is worth on it."),
    "explain": (
        "bench.explain.command:explain",
        "Explain an artifact's layer: its format, its bound, what would help.",
    ),
    "export-triton": ("runtime.triton.command:export_triton", "Write a model repository for Triton."),
    "inspect": ("st3.cli:inspect_", "Show what a checkpoint or an artifact holds."),
}
"""Command name to where it lives and its line in ``st3 --help``, which so needs no import of the stage."""


def _load(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)


class _Stages(click.Group):
    """A group whose commands are imported when they are used; mistakes of the user's print without a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            if ctx.resilient_parsing:
                return None
            near = difflib.get_close_matches(cmd_name, _COMMANDS, n=1)
            meant = f"did you mean {near[0]}?" if near else f"there is {', '.join(_COMMANDS)}"
            raise click.UsageError(f"No such command {cmd_name!r}; {meant}", ctx)
        command = _load(_COMMANDS[cmd_name][0])
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in _COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        from runtime.errors import UserError, refused_by_system

        try:
            return super().invoke(ctx)
        except UserError as error:
            raise _Refusal(str(error)) from error
        except BrokenPipeError:
            raise  # who reads us has seen enough; click ends the command
        except OSError as error:
            refusal = refused_by_system(error)
            if refusal is None:
                raise
            raise _Refusal(str(refusal)) from error
        except (KeyboardInterrupt, click.Abort) as error:
            raise _Interrupted("stopped by Ctrl-C; what was finished is kept") from error


class _Refusal(click.ClickException):
    """A user's mistake: one paragraph on stderr, exit status 2."""

    exit_code = 2


class _Interrupted(click.ClickException):
    """Ctrl-C: one line, and what a shell reports for it."""

    exit_code = 130

    def show(self, file: Any = None) -> None:
        click.echo(self.message, file=file, err=True)


@click.group(cls=_Stages, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="st3", prog_name="st3")
def main() -> None:
    """From dense weights to sparse weights that are really faster.

    The stages hand over folders: train writes a checkpoint, compile turns it into artifacts, bench measures them,
    report shows the result. An artifact runs alone (check, run, inspect).
    """


@click.command("inspect")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def inspect_(path: Path, as_json: bool) -> None:
    """Show what the checkpoint or artifact at PATH holds, layer by layer."""
    from runtime.errors import UserError

    if (path / "manifest.json").is_file():
        module = "runtime.inspect"
    elif (path / "checkpoint.json").is_file():
        module = "st3.inspect"
    else:
        from runtime.files import what_instead

        holds = next((name for name in ("manifest.json", "checkpoint.json") if any(path.glob(f"*/{name}"))), None)
        if holds or not path.exists():
            raise UserError(f"{path}: {what_instead(path, holds or 'manifest.json', 'st3 compile')}")
        raise UserError(f"{path} is neither a checkpoint (checkpoint.json) nor an artifact (manifest.json)")
    if as_json:
        click.echo(json.dumps(_load(f"{module}:describe")(path)))
        return
    from rich.console import Console

    # a file or a pipe has no width; a table should not be squeezed into the default one
    console = Console() if sys.stdout.isatty() else Console(width=160)
    for part in _load(f"{module}:render")(path):
        console.print(part, soft_wrap=isinstance(part, str), highlight=False)
