"""The command line as a whole: misspelt commands, what the machine refuses, Ctrl-C, the wrong folder."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import NoReturn

import click
import pytest
from click.testing import CliRunner, Result

from runtime.cli import main as runtime_main
from runtime.errors import refused_by_system
from st3 import cli


def call(*words: object) -> Result:
    return CliRunner().invoke(cli.main, [str(word) for word in words])


def failing(error: BaseException) -> click.Command:
    def fail() -> NoReturn:
        raise error

    return click.Command("fail", callback=fail)


def test_a_misspelt_command_is_told_the_nearest_one() -> None:
    result = call("compil", "x")
    assert result.exit_code == 2
    assert "No such command 'compil'; did you mean compile?" in result.output
    assert "there is train, sweep, sparsify" in call("zzz").output


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, "make room"), (errno.EROFS, "can be written"), (errno.EACCES, "permissions")],
)
def test_what_the_machine_refuses_is_one_line(number: int, advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    error = OSError(number, "is refused", "/some/file")
    monkeypatch.setattr(cli, "_load", lambda place: failing(error))
    result = call("inspect")
    assert result.exit_code == 2
    assert result.output.startswith("Error: /some/file: is refused; ")
    assert advice in result.output


def test_a_disk_that_fills_up_while_a_folder_is_copied(tmp_path: Path) -> None:
    error = refused_by_system(shutil.Error([("a", "b", "[Errno 28] No space left on device: 'a' -> 'b'")]))
    assert str(error) == "No space left on device; make room, and run the command again"
    assert refused_by_system(shutil.Error([("a", "b", "odd")])) is None


def test_what_may_be_our_own_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    error = OSError(errno.EIO, "broken")
    monkeypatch.setattr(cli, "_load", lambda place: failing(error))
    assert call("inspect").exception is error


def test_ctrl_c_is_a_line_and_the_shells_own_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "_load", lambda place: failing(KeyboardInterrupt()))
    result = call("inspect")
    assert result.exit_code == 130
    assert result.output == "stopped by Ctrl-C; what was finished is kept\n"

    def interrupted(folder: Path) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr("runtime.inspect.plain_lines", interrupted)
    assert runtime_main(["inspect", "x"]) == 130
    assert capsys.readouterr().err == "stopped by Ctrl-C\n"


def test_a_folder_of_artifacts_or_checkpoints_names_one(tmp_path: Path) -> None:
    for name in ("manifest.json", "checkpoint.json"):
        (tmp_path / name / "b/native-b1").mkdir(parents=True)
        (tmp_path / name / "a").mkdir()
        (tmp_path / name / "a" / name).touch()
        result = call("inspect", tmp_path / name)
        assert result.exit_code == 2
        assert f"it has no {name}, but folders in it have; name one, for instance {tmp_path / name / 'a'}" in (
            result.output.replace("\n", " ")
        )
    assert "there is no such folder" in call("inspect", tmp_path / "nowhere").output
