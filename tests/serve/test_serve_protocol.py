"""The open inference protocol on the wire: what is read, what is refused and why, what is written."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from runtime.serve.model_signature import JSON_LIMIT_BYTES, Output, Signature
from runtime.serve.protocol import RequestError, read_request, write_response

SIGNATURE = Signature("m", "1", "st3_native", "input", (1, 2, 2), (Output("output", (3,)),), 4)
ROWS = np.arange(8, dtype=np.float32).reshape(2, 1, 2, 2)


def document(**changes: object) -> dict[str, object]:
    tensor = {"name": "input", "shape": [2, 1, 2, 2], "datatype": "FP32", "data": ROWS.ravel().tolist()}
    return {"inputs": [{key: value for key, value in (tensor | changes).items() if value is not None}]}


def read(given: object, raw: bytes = b"", header: str | None = None) -> np.ndarray:
    head = given if isinstance(given, bytes) else json.dumps(given).encode()
    length = str(len(head)) if raw and header is None else header
    return read_request(SIGNATURE, head + raw, length).rows


def test_json_binary_and_bare_bytes_are_the_same_rows() -> None:
    binary = document(data=None, parameters={"binary_data_size": 32})
    for got in (
        read(document()),
        read(document(data=ROWS.tolist())),
        read(binary, ROWS.tobytes()),
        read(b"", ROWS.tobytes(), "0"),
        read(document(data=[int(x) for x in ROWS.ravel()])),
    ):
        assert got.dtype == np.float32
        assert np.array_equal(got, ROWS)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": "x"}, "one input named 'input'"),
        ({"datatype": "FP64"}, "is FP32, got 'FP64'"),
        ({"shape": [2, 1, 4]}, r"must have shape \[n, 1, 2, 2\] with n from 1 to 4, got \[2, 1, 4\]"),
        ({"shape": []}, "must have shape"),
        ({"shape": [0, 1, 2, 2], "data": []}, "must have shape"),
        ({"shape": [-1, 1, 2, 2]}, "must have shape"),
        ({"shape": [5, 1, 2, 2], "data": [0.0] * 20}, "n from 1 to 4"),
        ({"shape": [2**62, 1, 2, 2]}, "must have shape"),
        ({"shape": [2**70, 1, 2, 2]}, "no inference request"),
        ({"shape": [2.5, 1, 2, 2]}, "no inference request"),
        ({"data": [1.0] * 7}, r"has shape \[7\]"),
        ({"data": [[[1.0] * 8]]}, r"has shape \[1, 1, 8\]"),
        ({"data": [[1.0] * 4, [1.0] * 3]}, "must be numbers"),
        ({"data": ["1"] * 8}, "must be numbers"),
        ({"data": [True] * 8}, "must be numbers"),
        ({"data": [None] * 8}, "must be numbers"),
        ({"data": {}}, "must be numbers"),
        ({"data": [1e39] * 8}, "too large for FP32"),
        ({"data": None}, "neither data nor binary_data_size"),
        ({"parameters": {"binary_data_size": 32}}, "must be 0: so many bytes follow"),
        ({"parameters": {"shared_memory_region": "r"}}, "not supported"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_reason(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(RequestError, match=reason) as error:
        read(document(**changes))
    assert error.value.status == 400


@pytest.mark.parametrize("size", [0, 31, 33, -32, "32", None, True, 2**70])
def test_lying_binary_sizes_are_refused(size: object) -> None:
    with pytest.raises(RequestError) as error:
        read(document(data=None, parameters={"binary_data_size": size}), ROWS.tobytes())
    assert error.value.status == 400


def test_binary_size_must_fit_the_shape() -> None:
    with pytest.raises(RequestError, match="16 bytes each"):
        read(document(data=None, shape=[1, 1, 2, 2], parameters={"binary_data_size": 32}), ROWS.tobytes())
    with pytest.raises(RequestError, match="16 bytes each"):
        read(b"", bytes(17), "0")


@pytest.mark.parametrize("header", ["-1", "x", "", "1e2", "99999", "9" * 30, "\uff11"])
def test_lying_header_lengths_are_refused(header: str) -> None:
    with pytest.raises(RequestError, match="Inference-Header-Content-Length"):
        read(document(), header=header)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    rows = ROWS.copy()
    rows[1, 0, 1, 1] = value
    with pytest.raises(RequestError, match="NaN"):
        read(b"", rows.tobytes(), "0")
    with pytest.raises(RequestError, match="no inference request"):
        read(json.dumps(document(data=rows.ravel().tolist())).encode())


def test_large_finite_rows_are_taken_though_their_sum_overflows() -> None:
    rows = np.full_like(ROWS, 3e38)
    assert np.array_equal(read(b"", rows.tobytes(), "0"), rows)


def test_integers_too_long_to_print_are_refused() -> None:
    digits = b"1" + b"0" * 5000
    text = json.dumps(document()).encode()
    for request in (
        text.replace(b"[2, 1,", b"[" + digits + b", 1,"),
        text.replace(b'"FP32"', b'"FP32", "parameters": {"binary_data_size": ' + digits + b"}"),
        text.replace(b"[0.0,", b"[" + digits + b","),
    ):
        assert request != text
        with pytest.raises(RequestError) as error:
            read(request)
        assert error.value.status == 400


def test_deep_and_long_json_is_refused() -> None:
    for inner in (b"[" * 200_000 + b"]" * 200_000, b'{"a":' * 100_000 + b"1" + b"}" * 100_000):
        with pytest.raises(RequestError) as error:
            read(b'{"inputs":' + inner + b"}")
        assert error.value.status == 400
    with pytest.raises(RequestError) as error:
        read(b'{"inputs":[]' + b" " * JSON_LIMIT_BYTES + b"}")
    assert error.value.status == 413


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode), st.none() | st.integers(-2, 250).map(str))
def test_noise_is_refused_and_nothing_else_happens(body: bytes, header: str | None) -> None:
    # a body without JSON is the tensor itself, and any bytes are numbers
    assume(header != "0" or len(body) % SIGNATURE.row_bytes != 0 or not body)
    with pytest.raises(RequestError):
        read_request(SIGNATURE, body, header)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(["name", "shape", "datatype", "data", "parameters"]), _JSON)
def test_any_json_in_any_field_is_read_or_refused(field: str, value: object) -> None:
    reason = ""
    try:
        rows = read(document(**{field: value}))
    except RequestError as error:
        reason = error.reason
    assert len(reason) < 1000
    assert reason or rows.shape[1:] == (1, 2, 2)


def answer(output: np.ndarray, request: dict[str, object]) -> tuple[dict[str, object], bytes]:
    infer = read_request(SIGNATURE, json.dumps(request).encode(), None)
    body, length = write_response(SIGNATURE, infer, [output])
    return json.loads(body[:length] if length else body), body[length:] if length else b""


def test_answers_carry_id_version_and_the_output_as_it_was_asked_for() -> None:
    output = np.array([[0.5, -1.0, math.pi], [1, 2, 3]], np.float32)
    head, raw = answer(output, document() | {"id": "a7"})
    assert (head["id"], head["model_name"], head["model_version"], raw) == ("a7", "m", "1", b"")
    assert np.array_equal(np.array(head["outputs"][0]["data"], np.float32).reshape(2, 3), output)
    for asked in (
        {"parameters": {"binary_data_output": True}},
        {"outputs": [{"name": "output", "parameters": {"binary_data": True}}]},
    ):
        head, raw = answer(output, document() | asked)
        assert head["outputs"] == [
            {"name": "output", "datatype": "FP32", "shape": [2, 3], "parameters": {"binary_data_size": 24}}
        ]
        assert raw == output.tobytes()
    _, raw = answer(output, document() | {"outputs": [{"name": "output"}]})
    assert raw == b""
    for wrong in ([{"name": "x"}], [{"name": "output"}] * 2):
        with pytest.raises(RequestError, match="one output, 'output'"):
            answer(output, document() | {"outputs": wrong})


def test_an_answer_that_json_cannot_hold_is_refused_and_binary_holds_it() -> None:
    output = np.array([[np.inf, 0, 0]], np.float32)
    with pytest.raises(RequestError, match="ask for binary_data"):
        answer(output, document())
    assert answer(output, document() | {"parameters": {"binary_data_output": True}})[1] == output.tobytes()
