"""Columns made and read through buffers are those that pyarrow makes, at a fraction of the start-up."""

import numpy as np
import pyarrow as pa
import pytest

from pipeline.data.columns import (
    binaries,
    fixed_binaries,
    fixed_binaries_of,
    numbers,
    numbers_of,
    texts,
    truths,
)

WORDS = ["frame_1", "", "Küche/0001", "日本"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
@pytest.mark.parametrize("values", [WORDS, [], [""]])
def test_text_is_what_pyarrow_makes_of_it(kind: pa.DataType, values: list[str]) -> None:
    column = texts(values, kind)
    column.validate(full=True)
    assert column.equals(pa.array(values, kind))


def test_bytes_need_not_be_text() -> None:
    values = [b"\xff\x00", b"", b"rgb/\xe9.png"]
    assert binaries(values).equals(pa.array(values, pa.large_binary()))


def test_a_surrogate_is_refused_rather_than_written() -> None:
    with pytest.raises(UnicodeEncodeError):
        texts(["a\udcff"])


@pytest.mark.parametrize("known", [[True, True, True], [False, True, False], [False] * 9, []])
def test_bytes_of_one_size_come_back_with_zeros_where_there_are_none(known: list[bool]) -> None:
    values = [bytes([number, 255]) if here else None for number, here in enumerate(known)]
    column = fixed_binaries(values, 2)
    column.validate(full=True)
    assert column.equals(pa.array(values, pa.binary(2)))
    expected = np.array([[n, 255] if here else [0, 0] for n, here in enumerate(known)]).reshape(-1, 2)
    np.testing.assert_array_equal(fixed_binaries_of(column), expected)
    np.testing.assert_array_equal(fixed_binaries_of(column.slice(1)), expected[1:])
    np.testing.assert_array_equal(
        fixed_binaries_of(pa.chunked_array([column, column.slice(1)])),
        np.concatenate([expected, expected[1:]]),
    )


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.int64, np.uint64, np.float32, np.float64])
def test_numbers_come_back_as_they_were(kind: type) -> None:
    values = np.arange(12, dtype=kind)
    for part in (values, values[::3], values[:0]):
        column = numbers(part)
        assert column.equals(pa.array(part.tolist(), pa.from_numpy_dtype(kind)))
        back = numbers_of(pa.chunked_array([column, column]))
        assert back.dtype == kind
        np.testing.assert_array_equal(back, np.concatenate([part, part]))
    assert numbers_of(pa.chunked_array([], pa.int32())).shape == (0,)


def test_missing_numbers_become_the_one_that_stands_for_them() -> None:
    column = pa.array([7, None, 0, None], pa.int32())
    assert numbers_of(column, -1).tolist() == [7, -1, 0, -1]
    assert numbers_of(column.slice(1), -1).tolist() == [-1, 0, -1]
    assert numbers_of(numbers(np.arange(3)), -1).tolist() == [0, 1, 2]


def test_yes_and_no_is_what_pyarrow_makes_of_it() -> None:
    values = np.arange(11) % 3 == 0
    assert truths(values).equals(pa.array(values.tolist()))
