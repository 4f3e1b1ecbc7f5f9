"""What somebody who means harm could put into arrays, pictures, ONNX files and programs is refused with one line."""

from __future__ import annotations

import shutil
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime.data import Preprocessing, load_evaluation_set, write_evaluation_set
from runtime.errors import ArtifactError, UserError
from runtime.exported import refuse_code
from runtime.npy import read_npy
from runtime.onnx_guard import refuse_outside
from runtime.pictures import read_inputs

SAMPLES = Path(__file__).parent / "schemas"


def npy(header: bytes, body: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    padded = header + b" " * (-(11 + len(header)) % 64) + b"\n"
    return b"\x93NUMPY" + version + len(padded).to_bytes(2 if version[0] == 1 else 4, "little") + padded + body


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999, 9)}"), "its header needs"),
        (npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4)}", bytes(16)), "its shape is"),
        (npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}", bytes(4)), "its shape is"),
        (npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", bytes(8)), "only plain numbers"),
        (npy(b"{'descr': '>f4', 'fortran_order': False, 'shape': (1,)}", bytes(4)), "the other byte order"),
        (npy(b"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}", bytes(4)), "only plain numbers"),
        (npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': " + b"(" * 9000 + b"}"), "its header cannot be read"),
        (npy(b"__import__('os').system('true')"), "its header cannot be read"),
        (b"PK\x03\x04" + bytes(100), "its header cannot be read"),
        (b"", "its header cannot be read"),
    ],
)
@pytest.mark.parametrize("mapped", [True, False])
def test_numpy_files(tmp_path: Path, raw: bytes, message: str, mapped: bool) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=message):
        read_npy(path, mapped)
    with pytest.raises(UserError, match=r"is not a plain \.npy array"):
        read_inputs((path,), Preprocessing((1, 8, 8), (0.5,), (0.5,)))


def test_an_archive_that_unpacks_to_anything(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros(1 << 24, np.uint8))
    (tmp_path / "bomb.npz").rename(tmp_path / "bomb.npy")
    with pytest.raises(ValueError, match="its header cannot be read"):
        read_npy(tmp_path / "bomb.npy")


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4), (2, 0, 4)])
def test_what_numpy_wrote_is_read_as_numpy_does(tmp_path: Path, shape: tuple[int, ...], order: str) -> None:
    array = np.asarray(np.random.default_rng(0).standard_normal(shape), order=order)
    np.save(tmp_path / "x.npy", array)
    for mapped in (True, False):
        found = read_npy(tmp_path / "x.npy", mapped)
        assert found.dtype == array.dtype
        assert np.array_equal(found, array)


def test_an_evaluation_set_replaces_no_file_of_another_purpose(tmp_path: Path) -> None:
    (tmp_path / "labels.npy").write_text("mine")
    images, how = np.zeros((3, 1, 4, 4), np.uint8), Preprocessing((1, 4, 4), (0.5,), (0.5,))
    with pytest.raises(UserError, match=r"labels\.npy is there without an evaluation\.json, so it may be yours"):
        write_evaluation_set(tmp_path, "x", images, np.zeros(3, np.int64), how, ())
    assert (tmp_path / "labels.npy").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1


def test_evaluation_sets(tmp_path: Path) -> None:
    images, how = np.zeros((3, 1, 4, 4), np.uint8), Preprocessing((1, 4, 4), (0.5,), (0.5,))
    write_evaluation_set(tmp_path / "set", "x", images, np.zeros(3, np.int64), how, ())
    assert len(load_evaluation_set(tmp_path / "set", verify=True)) == 3
    for name, content, message in (
        ("labels.npy", npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}", bytes(12)), "do not fit"),
        ("images.npy", npy(b"{'descr': '|u1', 'fortran_order': False, 'shape': (9999999999,)}"), "cannot be read"),
        ("evaluation.json", b"[" * 100_000, "cannot be read: Expected `object`"),
        ("evaluation.json", b'{"x": ' + b"[" * 100_000, "cannot be read: .*unknown field|nested"),
        ("evaluation.json", b'{"schema_version": 1, "schema_version": 1}', "cannot be read"),
    ):
        folder = Path(shutil.copytree(tmp_path / "set", tmp_path / f"bad-{len(message)}-{len(content)}"))
        (folder / name).write_bytes(content)
        with pytest.raises(UserError, match=message):
            load_evaluation_set(folder)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's own remarks
def test_pictures_that_unpack_to_gigabytes(tmp_path: Path) -> None:
    Image.new("1", (30_000, 30_000)).save(tmp_path / "bomb.png")
    assert (tmp_path / "bomb.png").stat().st_size < 1 << 20
    (tmp_path / "cut.png").write_bytes((tmp_path / "bomb.png").read_bytes()[:60])
    (tmp_path / "bad.tif").write_bytes(b"II*\x00\x08\x00\x00\x00" + b"\xff" * 40)
    for name, message in (("bomb.png", "x 30000 pixels|bomb"), ("cut.png", "as a picture"), ("bad.tif", "picture")):
        with pytest.raises(UserError, match=message):
            read_inputs((tmp_path / name,), Preprocessing((1, 8, 8), (0.5,), (0.5,)))


@pytest.mark.parametrize("where", ["initializer", "constant", "subgraph"])
def test_onnx_files_that_read_other_files(tmp_path: Path, where: str) -> None:
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load(SAMPLES / "3/onnxruntime/payload/model.onnx")
    refuse_outside(tmp_path, memoryview(model.SerializeToString()))
    tensor = TensorProto(name="evil", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../../etc/passwd")
    if where == "initializer":
        model.graph.initializer.append(tensor)
    elif where == "constant":
        model.graph.node.append(helper.make_node("Constant", [], ["evil"], value=tensor))
    else:
        inner = helper.make_graph([], "inner", [], [], [tensor])
        model.graph.node.append(helper.make_node("If", ["x"], ["evil"], then_branch=inner, else_branch=inner))
    with pytest.raises(ArtifactError, match="has a tensor in another file"):
        refuse_outside(tmp_path, memoryview(model.SerializeToString()))


@pytest.mark.parametrize(
    "raw", [b"\x3a\xff", b"\x3a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", b"\x07", b"\x38\x01"]
)
def test_onnx_files_that_are_none(tmp_path: Path, raw: bytes) -> None:
    with pytest.raises(ArtifactError, match="is no ONNX file"):
        refuse_outside(tmp_path, memoryview(raw))


def test_exported_programs_that_unpack_or_overlap(tmp_path: Path) -> None:
    path = tmp_path / "graph.pt2"
    for kind, names, message in (
        (zipfile.ZIP_DEFLATED, ["g/version"], "is compressed"),
        (zipfile.ZIP_STORED, ["g/archive_version", "g/archive_version"], "share a name"),
        (zipfile.ZIP_STORED, ["g/../../x"], "may be pickled code"),
        (zipfile.ZIP_STORED, ["g/models/model.json"], "is no exported program"),
    ):
        with warnings.catch_warnings(), zipfile.ZipFile(path, "w", kind) as archive:
            warnings.simplefilter("ignore")  # of the name that is there twice
            for name in names:
                archive.writestr(name, b"[" * 100_000)
        with pytest.raises(UserError, match=message):
            refuse_code(path, path.read_bytes())
