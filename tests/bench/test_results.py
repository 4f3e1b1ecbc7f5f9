"""Every measurement that the repository carries can be read, is named by its conditions, and README shows no other."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

import bench.published.__main__ as command
from bench.published.kinds import FOLDER, KINDS, check, parse_name, result_files, slug
from bench.published.readme import with_tables
from bench.published.tables import TABLES, make_table
from runtime.errors import UserError

README = FOLDER.parents[1] / "README.md"


def test_there_are_results() -> None:
    assert result_files()


@pytest.mark.parametrize("path", result_files(), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_committed_file_is_whole_and_named_by_its_conditions(path: Path) -> None:
    check(path)


def test_readme_has_the_tables_of_the_results() -> None:
    text = README.read_text(encoding="utf-8")
    assert sorted(re.findall(r"<!-- table:([^ ]*) -->", text)) == sorted(TABLES)
    assert with_tables(text, make_table) == text
    for table in TABLES.values():
        assert f"bench/results/{table.source}" in text, "README says where its figures are from"


def test_the_folder_explains_every_kind() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    for kind in KINDS:
        assert f"| `{kind}` |" in text


@pytest.fixture
def networks(tmp_path: Path) -> Path:
    """A copy of the smallest file, in the folder of its kind."""
    source = next(path for path in result_files() if path.parent.name == "gpu-networks")
    folder = tmp_path / "gpu-networks"
    folder.mkdir()
    return Path(shutil.copy(source, folder / source.name))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet50-h200.jsonl", "a name is DATE_WHAT_DEVICE_CONDITIONS"),
        (
            "2026-11-26_resnet50_h200_float16-b32.jsonl",
            "its conditions are float16-b32-b128; call it 2026-11-26_resnet",
        ),
        ("2026-11-26_vgg19_h200_float16-b32-b128.jsonl", "it holds resnet50, not vgg19"),
    ],
)
def test_a_name_that_says_something_else_is_refused(networks: Path, name: str, message: str) -> None:
    other = networks.rename(networks.with_name(name))
    with pytest.raises(UserError, match=message):
        check(other)


def test_a_session_under_another_day_is_refused(tmp_path: Path) -> None:
    source = next(path for path in result_files() if path.parent.name == "bench")
    (tmp_path / "bench").mkdir()
    other = tmp_path / "bench" / source.name.replace(parse_name(source).date, "2026-01-01")
    shutil.copy(source, other)
    with pytest.raises(UserError, match=f"measured on {parse_name(source).date}"):
        check(other)


def test_an_unknown_folder_and_a_foreign_line_are_refused(networks: Path) -> None:
    elsewhere = networks.parent.with_name("guesses")
    elsewhere.mkdir()
    with pytest.raises(UserError, match=f"guesses is no kind of measurement; the folders are {', '.join(KINDS)}"):
        check(Path(shutil.copy(networks, elsewhere)))
    with networks.open("a") as stream:
        stream.write('{"kind":"time","network":"resnet50"}\n')
    lines = len(networks.read_text().splitlines())
    with pytest.raises(UserError, match=rf"line {lines}: Object missing required field `batch`"):
        check(networks)


@pytest.mark.parametrize(
    ("kind", "line", "name"),
    [
        (
            "sweep",
            '{"key":"0","recipe":"fashion-resnet8","recipe_digest":"0","options":[],"method":"st3","pattern":'
            '"unstructured","target_sparsity":0.9,"sparsity":0.9,"seed":1,"accuracy":0.9,"loss":0.3,"epochs":1.5,'
            '"steps":700,"seconds":9.0,"jobs":1,"weights_sha256":"0","device":"cpu","processor":"x","threads":1,'
            '"commit":"0","versions":{}}',
            "2026-11-26_fashion-resnet8_epyc_st3-seeds1.jsonl",
        ),
        (
            "training-speed",
            '{"recipe":"resnet50-synthetic","method":"dense","mode":"eager","batch_size":256,"precision":"bf16",'
            '"images_per_s":900.0,"spread_percent":0.1,"overhead_percent":null,"step_ms":284.0,"issue_ms":9.0,'
            '"run_hours":130.0,"windows_s":[0.28],"device":"x","commit":"0","versions":{}}',
            "2026-11-26_resnet50-synthetic_h100_bf16-eager-b256.jsonl",
        ),
    ],
)
def test_what_training_writes_is_known_too(tmp_path: Path, kind: str, line: str, name: str) -> None:
    (tmp_path / kind).mkdir()
    path = tmp_path / kind / name
    path.write_text(line + "\n")
    check(path)


def test_a_slug_has_the_letters_of_a_name() -> None:
    assert slug("mobilenet_v2") == "mobilenet-v2"
    assert slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"


def test_tables_are_put_between_their_markers_and_nowhere_else() -> None:
    text = "a\n<!-- table:x -->\nold\nold\n<!-- /table -->\nb\n<!-- table:y -->\n<!-- /table -->\n"
    made = with_tables(text, lambda name: f"new {name}")
    assert made == "a\n<!-- table:x -->\nnew x\n<!-- /table -->\nb\n<!-- table:y -->\nnew y\n<!-- /table -->\n"
    assert with_tables(made, lambda name: f"new {name}") == made


@pytest.mark.parametrize(
    "text", ["<!-- table:x -->\n", "<!-- /table -->\n", "<!-- table:Wrong! -->\n<!-- /table -->\n"]
)
def test_markers_without_their_other_half_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="the markers of the tables do not match"):
        with_tables(text, lambda name: name)


def test_an_unknown_table_is_refused() -> None:
    with pytest.raises(UserError, match=f"there is no table 'x'; there are {', '.join(TABLES)}"):
        make_table("x")


def test_a_readme_that_differs_fails_the_check_and_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "result_files", list)
    copy = tmp_path / "README.md"
    copy.write_text(README.read_text().replace("1.09x dense", "1.90x dense"))
    with pytest.raises(UserError, match="its tables are not those of bench/results; `make tables` writes them"):
        command.main([str(copy), "--check"], standalone_mode=False)
    command.main([str(copy)], standalone_mode=False)
    assert copy.read_text() == README.read_text()
    command.main([str(copy), "--check"], standalone_mode=False)
