"""Indices of dictionaries: a corrupt one is found in the survey, wherever in a type it is."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from render_farm.errors import InputError
from render_farm.job.dictionaries import check_indices
from render_farm.job.prompts import survey

KIND = pa.dictionary(pa.int32(), pa.string())
TONES = pa.array(list("abcabcab"), KIND)
INDICES, SPOILED = b"\x02\x03\x24\x49", b"\x02\x03\x24\xff"
"""The eight indices of `TONES` in two bits each, and the same with 3, which has no value."""

ONE_EACH = pa.array(range(9), pa.int32())
PLACES: dict[str, pa.Array] = {
    "a column": TONES,
    "a struct": pa.StructArray.from_arrays([TONES], ["inner"]),
    "a list": pa.ListArray.from_arrays(ONE_EACH, TONES),
    "a struct in a list": pa.ListArray.from_arrays(
        ONE_EACH, pa.StructArray.from_arrays([TONES], ["inner"])
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_an_index_without_a_value_is_found_in_the_survey(place: str, tmp_path: Path) -> None:
    """To write such a column again, as a worker does, is a segmentation fault of Arrow's."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"prompt": ["p"] * 8, "x": PLACES[place]}), path, compression="none")
    assert survey(str(path)).files[0].rows == 8
    data = path.read_bytes()
    assert data.count(INDICES) == 1
    path.write_bytes(data.replace(INDICES, SPOILED))
    with pytest.raises(InputError, match="out of bounds") as caught:
        survey(str(path))
    assert "a.parquet" in caught.value.problems[0].value


def spoiled() -> pa.DictionaryArray:
    indices = pa.array([0, 1, 2, None], pa.int32())
    return pa.DictionaryArray.from_arrays(indices, pa.array(["a", "b"]), safe=False)


def test_the_items_of_a_map_are_looked_at() -> None:
    items = pa.MapArray.from_arrays(pa.array(range(5), pa.int32()), pa.array([*"wxyz"]), spoiled())
    with pytest.raises(pa.ArrowIndexError, match="out of bounds"):
        check_indices(items)


def test_an_extension_is_looked_into() -> None:
    class Tone(pa.ExtensionType):
        def __init__(self) -> None:
            super().__init__(pa.dictionary(pa.int32(), pa.string()), "test.tone")

        def __arrow_ext_serialize__(self) -> bytes:
            return b""

    with pytest.raises(pa.ArrowIndexError, match="out of bounds"):
        check_indices(pa.ExtensionArray.from_storage(Tone(), spoiled()))


def test_dictionaries_with_nulls_and_without_values_are_fine() -> None:
    kind = pa.dictionary(pa.int8(), pa.string())
    for values in (["a", None, "b", "a"], [], [None, None]):
        check_indices(pa.array(values, kind))
        check_indices(pa.array([values], pa.list_(kind)))
