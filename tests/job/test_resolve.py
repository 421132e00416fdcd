"""From rows to requests: the mapping of columns, and what every value becomes."""

from __future__ import annotations

import json
import math
import pickle
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from render_farm.errors import InputError, Problem, RowError
from render_farm.job.request import RenderRequest, Row
from render_farm.job.resolve import (
    MAX_TEXT,
    carried_columns,
    key_of_row,
    map_columns,
    resolve_row,
)
from render_farm.job.seeds import derive_seed
from render_farm.job.spec import JobSpec
from tests.making.jobs import make_job

FIELDS = (
    "prompt",
    "id",
    "negative_prompt",
    "seed",
    "width",
    "height",
    "steps",
    "guidance_scale",
    "scheduler",
)
TEXT = pa.string()


def job(columns: dict[str, str | None] | None = None, **defaults: Any) -> JobSpec:
    """A job with these columns mapped and these defaults."""
    return make_job("p.parquet", "out", prompts={"columns": columns or {}}, defaults=defaults)


def schema(**kinds: pa.DataType) -> pa.Schema:
    return pa.schema({"prompt": TEXT, **kinds})


def mapping_problems(of: JobSpec, kinds: pa.Schema) -> list[Problem]:
    with pytest.raises(InputError) as caught:
        map_columns(of, kinds)
    return list(caught.value.problems)


def requests(of: JobSpec | None = None, /, **columns: Any) -> list[RenderRequest]:
    """The requests of one row with these columns, each mapped to the field of its name."""
    columns = {"prompt": "a cat", **columns}
    mapping: Any = {name: name for name in columns if name in FIELDS}
    row = Row(row=7, file="sub/a.parquet", row_in_file=3, columns=columns)
    return resolve_row(row, of or job(), mapping)


def refusal(**columns: Any) -> RowError:
    with pytest.raises(RowError) as caught:
        requests(**columns)
    return caught.value


# --- the mapping ---


def test_columns_named_like_fields_are_taken_without_being_asked_for() -> None:
    kinds = schema(id=TEXT, seed=pa.int64(), caption=TEXT)
    assert map_columns(job(), kinds) == {"prompt": "prompt", "id": "id", "seed": "seed"}


def test_every_field_can_come_from_a_column_of_another_name() -> None:
    columns: dict[str, str | None] = {name: f"c_{name}" for name in FIELDS}
    texts = {"prompt", "id", "negative_prompt", "scheduler"}
    kinds = pa.schema({f"c_{name}": TEXT if name in texts else pa.int32() for name in FIELDS})
    assert map_columns(job(columns), kinds) == columns


def test_a_named_column_wins_over_the_one_of_the_field_s_name() -> None:
    kinds = schema(caption=TEXT)
    assert map_columns(job({"prompt": "caption"}), kinds) == {"prompt": "caption"}
    assert carried_columns(kinds, {"prompt": "caption"}) == ["prompt"]


def test_null_switches_a_column_off_and_it_is_carried_then() -> None:
    kinds = schema(id=TEXT, width=TEXT)
    mapping = map_columns(job({"id": None, "width": None}), kinds)
    assert mapping == {"prompt": "prompt"}
    assert carried_columns(kinds, mapping) == ["id", "width"]


def test_what_gives_no_field_is_carried_in_the_input_s_order() -> None:
    kinds = pa.schema({"z": pa.int8(), "prompt": TEXT, "a": pa.list_(TEXT), "rf_row": pa.int64()})
    assert carried_columns(kinds, map_columns(job(), kinds)) == ["z", "a", "rf_row"]


def test_two_fields_may_share_a_column() -> None:
    kinds = schema(s=TEXT)
    mapping = map_columns(job({"prompt": "s", "negative_prompt": "s"}), kinds)
    assert mapping == {"prompt": "s", "negative_prompt": "s"}


def test_names_of_columns_are_exact() -> None:
    kinds = pa.schema({"Prompt": TEXT, "prompt ": TEXT})
    (problem,) = mapping_problems(job(), kinds)
    assert problem.field == "prompts.columns.prompt"


def test_a_named_column_that_is_not_there_is_a_mistake() -> None:
    (problem,) = mapping_problems(job({"id": "key"}), schema(caption=TEXT))
    assert problem == Problem(
        "prompts.columns.id",
        "'key'",
        "a column of the dataset: prompt, caption",
        "name one of them, or null to switch the field's column off",
    )


@pytest.mark.parametrize("columns", [None, {"prompt": None}])
def test_a_dataset_without_a_prompt_is_a_mistake(columns: dict[str, str | None] | None) -> None:
    names = {"caption": TEXT} if columns is None else {"prompt": TEXT}
    (problem,) = mapping_problems(job(columns), pa.schema(names))
    assert problem.field == "prompts.columns.prompt"
    assert problem.value == "no column for the prompt"
    assert next(iter(names)) in problem.allowed
    assert "columns: {prompt: caption}" in problem.fix


def test_all_mistakes_of_the_mapping_are_reported_at_once() -> None:
    kinds = pa.schema({"caption": TEXT, "steps": TEXT, "rf_job_seed": TEXT})
    found = mapping_problems(job({"id": "key", "seed": "caption"}), kinds)
    assert [problem.field for problem in found] == [
        "prompts.columns.id",
        "prompts.columns.seed",
        "prompts.columns.steps",
        "prompts.columns.prompt",
        "prompts.path",
    ]


FITTING = {
    "prompt": [TEXT, pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), TEXT)],
    "id": [TEXT, pa.int8(), pa.uint64(), pa.dictionary(pa.int32(), pa.large_string())],
    "scheduler": [TEXT, pa.string_view(), pa.null()],
    "width": [pa.int8(), pa.int64(), pa.uint64(), pa.float16(), pa.float64(), pa.null()],
    "guidance_scale": [pa.float32(), pa.int32(), pa.null()],
    "seed": [pa.int64(), pa.uint64(), pa.float64(), pa.null()],
}
UNFITTING = {
    "prompt": [pa.binary(), pa.int64(), pa.list_(TEXT), pa.struct({"a": TEXT}), pa.bool_()],
    "id": [pa.float64(), pa.bool_(), pa.binary(), pa.timestamp("us"), pa.decimal128(5, 0)],
    "negative_prompt": [pa.int64(), pa.dictionary(pa.int8(), pa.int64())],
    "scheduler": [pa.int64(), pa.binary()],
    "width": [TEXT, pa.bool_(), pa.decimal128(5, 0), pa.duration("s"), pa.date32()],
    "guidance_scale": [TEXT, pa.bool_(), pa.list_(pa.float64())],
    "seed": [TEXT, pa.bool_(), pa.binary(), pa.decimal128(20, 0)],
}


@pytest.mark.parametrize(("field", "kind"), [(f, k) for f, kinds in FITTING.items() for k in kinds])
def test_a_column_of_a_type_that_gives_the_field_is_taken(field: str, kind: pa.DataType) -> None:
    kinds = pa.schema({"prompt": TEXT} | {field: kind})
    assert map_columns(job(), kinds)[field] == field  # type: ignore[index]


@pytest.mark.parametrize(
    ("field", "kind"), [(f, k) for f, kinds in UNFITTING.items() for k in kinds]
)
def test_a_column_of_a_type_that_cannot_give_the_field_is_a_mistake(
    field: str, kind: pa.DataType
) -> None:
    (problem,) = mapping_problems(job(), pa.schema({"prompt": TEXT} | {field: kind}))
    assert problem.field == f"prompts.columns.{field}"
    assert problem.value == f"column {field!r} of type {kind}"
    assert problem.allowed in {
        "a column of text",
        "a column of text or whole numbers",
        "a column of numbers",
    }
    assert "null to switch" in problem.fix


@pytest.mark.parametrize(
    ("name", "kind"),
    [("rf_row_key", pa.int64()), ("rf_job_seed", pa.bool_()), ("rf_row", pa.timestamp("ns"))],
)
def test_columns_called_like_those_of_a_quarantine_file_must_be_like_them(
    name: str, kind: pa.DataType
) -> None:
    (problem,) = mapping_problems(job(), schema(**{name: kind}))
    assert problem.field == "prompts.path"
    assert name in problem.value
    assert str(kind) in problem.value
    assert name in problem.fix


# --- values ---


def test_a_row_gets_the_defaults_for_what_it_does_not_say() -> None:
    (request,) = requests()
    assert request == RenderRequest(
        row=7,
        sample=0,
        id=None,
        prompt="a cat",
        negative_prompt="",
        seed=derive_seed(0, ["sub/a.parquet", 3], 0),
        width=64,
        height=64,
        steps=4,
        guidance_scale=7.5,
        scheduler="model",
    )


GIVEN = {
    "id": "x",
    "negative_prompt": "blurry",
    "seed": 5,
    "width": 128,
    "height": 32,
    "steps": 9,
    "guidance_scale": 0.0,
    "scheduler": "euler",
}


def test_a_row_s_own_values_win_over_the_defaults() -> None:
    of = job(negative_prompt="ugly", width=256, scheduler="ddim", guidance_scale=3.0)
    (request,) = requests(of, **GIVEN)
    assert {name: getattr(request, name) for name in GIVEN} == GIVEN


def test_null_means_the_default_in_every_column() -> None:
    defaults: dict[str, Any] = {"negative_prompt": "ugly", "width": 256, "scheduler": "ddim"}
    (request,) = requests(job(**defaults), **dict.fromkeys(GIVEN))
    assert request == requests(job(**defaults))[0]


def test_every_sample_of_a_row_has_its_own_seed_and_key() -> None:
    found = requests(job(samples=100), seed=5)
    assert [request.sample for request in found] == list(range(100))
    assert found[0].seed == 5
    assert len({request.seed for request in found}) == 100
    assert [found[0].key, found[99].key] == ["000000007_00", "000000007_99"]
    assert {request.prompt for request in found} == {"a cat"}


@pytest.mark.parametrize(("given", "shown"), [(5, "5"), (-1, "-1"), (2**64 - 1, str(2**64 - 1))])
def test_a_number_as_id_is_its_text(given: int, shown: str) -> None:
    (request,) = requests(id=given)
    assert request.id == shown
    assert request.seed == derive_seed(0, shown, 0)


def test_floats_that_are_whole_numbers_are_whole_numbers() -> None:
    (request,) = requests(width=128.0, height=32.0, steps=9.0, seed=5.0, guidance_scale=7)
    assert (request.width, request.height, request.steps, request.seed) == (128, 32, 9, 5)
    assert [type(v) for v in (request.width, request.seed, request.guidance_scale)] == [
        int,
        int,
        float,
    ]


WHOLE = ("width", "height", "steps")
NO_WHOLE = [0, -1, -(2**63), 0.5, -1.5, math.nan, math.inf, -math.inf, True, "5", b"5", [5], {}]


@pytest.mark.parametrize("field", WHOLE)
@pytest.mark.parametrize("value", NO_WHOLE, ids=repr)
def test_what_is_no_whole_number_spoils_the_row(field: str, value: Any) -> None:
    error = refusal(**{field: value})
    assert error.error_type == f"bad_{field}"
    assert error.message == f"{field} is {value!r}; allowed: a whole number, at least 1"


@pytest.mark.parametrize("value", [-0.5, -1, math.nan, math.inf, -math.inf, True, "7.5", [1]])
def test_what_is_no_guidance_scale_spoils_the_row(value: Any) -> None:
    error = refusal(guidance_scale=value)
    assert error.error_type == "bad_guidance_scale"
    assert error.message == f"guidance_scale is {value!r}; allowed: a finite number, at least 0"


@pytest.mark.parametrize("value", [-1, 2**63, 2**64 - 1, 0.5, math.nan, math.inf, True, "5"])
def test_what_is_no_seed_spoils_the_row(value: Any) -> None:
    error = refusal(seed=value)
    assert error.error_type == "bad_seed"
    assert error.message == f"seed is {value!r}; allowed: a whole number, 0 to 2^63-1"


@pytest.mark.parametrize("value", [0, 1, 2**53, 2**63 - 1, 2.0**53 - 1, -0.0])
def test_every_seed_in_range_is_taken_as_it_is(value: float) -> None:
    assert requests(seed=value)[0].seed == value


@pytest.mark.parametrize("value", [2.0**53, 1e18, 2.0**63])
def test_a_float_too_big_to_be_exact_is_no_seed(value: float) -> None:
    error = refusal(seed=value)
    assert error.error_type == "bad_seed"
    assert "below 2^53 in a column of floats" in error.message


@pytest.mark.parametrize("field", ["prompt", "negative_prompt", "scheduler"])
@pytest.mark.parametrize("value", [5, True, b"x", ["x"], 0.0])
def test_what_is_no_text_spoils_the_row(field: str, value: Any) -> None:
    error = refusal(**{field: value})
    assert error.error_type == f"bad_{field}"
    assert error.message == f"{field} is {value!r}; allowed: a text in UTF-8"


def test_a_row_without_a_prompt_is_spoiled() -> None:
    error = refusal(prompt=None)
    assert (error.error_type, error.message) == ("bad_prompt", "prompt is None; allowed: a text")


@pytest.mark.parametrize("field", ["prompt", "negative_prompt", "scheduler", "id"])
def test_a_text_of_a_megabyte_spoils_the_row_and_its_message_stays_short(field: str) -> None:
    assert requests(**{field: "x" * MAX_TEXT})
    error = refusal(**{field: "x" * 2**20})
    assert error.error_type == f"bad_{field}"
    assert len(error.message) < 400
    assert f"at most {MAX_TEXT} characters" in error.message


# Accepted on purpose: what a tokenizer makes of them is the model's affair.
TEXTS = [
    "",
    " ",
    "\0",
    "a\0b",
    "\x01\x1b[31m\r\n",
    "😀",
    "\u202e",
    "́",
    "﷽" * 1000,
    "\ufeff",
    "../../x",
]


@pytest.mark.parametrize("field", ["prompt", "negative_prompt", "scheduler", "id"])
@pytest.mark.parametrize("value", TEXTS)
def test_any_unicode_is_taken_as_it_is(field: str, value: str) -> None:
    assert getattr(requests(**{field: value})[0], field) == value


def test_a_row_error_survives_pickling() -> None:
    error = refusal(seed=-1)
    again = pickle.loads(pickle.dumps(error))
    assert (again.error_type, again.message, str(again)) == (
        error.error_type,
        error.message,
        str(error),
    )


@given(
    value=st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(),
        st.binary(),
        st.lists(st.none()),
    ),
    field=st.sampled_from(FIELDS),
)
def test_no_value_does_anything_but_become_requests_or_spoil_its_row(
    value: Any, field: str
) -> None:
    try:
        (request,) = requests(**{field: value})
    except RowError as error:
        assert error.error_type == f"bad_{field}"  # noqa: PT017
    else:
        assert 0 <= request.seed < 2**63
        assert min(request.width, request.height, request.steps) >= 1
        assert request.guidance_scale >= 0
        assert math.isfinite(request.guidance_scale)


# --- rows of a quarantine file ---


def test_a_row_of_a_quarantine_file_keeps_its_pictures() -> None:
    for key in ("row-5", ["sub/a.parquet", 3]):
        (request,) = requests(rf_row=9, rf_row_key=json.dumps(key), rf_job_seed=42, id="other")
        assert request.seed == derive_seed(42, key, 0)
        assert request.id == "other"


def test_a_seed_column_matters_more_than_where_a_row_comes_from() -> None:
    (request,) = requests(rf_row_key='"x"', rf_job_seed=42, seed=5)
    assert request.seed == 5


@pytest.mark.parametrize(
    "columns", [{"rf_row_key": None, "rf_job_seed": 42}, {"rf_row_key": '"x"', "rf_job_seed": None}]
)
def test_a_row_that_does_not_say_where_it_comes_from_is_a_row_of_this_job(
    columns: dict[str, Any],
) -> None:
    assert requests(**columns) == requests()


BAD_KEYS = [
    "",
    "x",
    "5",
    "null",
    "{}",
    "[]",
    '["a"]',
    '["a", 1, 2]',
    '["a", "1"]',
    '["a", 1.5]',
    '["a", true]',
    "[1, 2]",
    "NaN",
    "[" * 100_000,
    '["a", ' + "9" * 5000 + "]",
    b"\xff",
    5,
]


@pytest.mark.parametrize("key", BAD_KEYS, ids=lambda key: repr(key)[:20])
def test_a_row_key_that_render_farm_did_not_write_spoils_the_row(key: Any) -> None:
    error = refusal(rf_row_key=key, rf_job_seed=1)
    assert error.error_type == "bad_rf_row_key"
    assert "quarantine file" in error.message
    assert len(error.message) < 400


@pytest.mark.parametrize("seed", [-1, 2**63, True, "5", math.nan])
def test_a_job_seed_that_render_farm_did_not_write_spoils_the_row(seed: Any) -> None:
    error = refusal(rf_row_key='"x"', rf_job_seed=seed)
    assert error.error_type == "bad_rf_job_seed"
    assert "rf_job_seed is" in error.message


def test_the_key_of_a_row_is_the_one_that_its_seeds_are_made_of() -> None:
    mapping: Any = {"prompt": "prompt", "id": "key"}
    own = Row(7, "a.parquet", 3, {"prompt": "p", "key": 5})
    placed = Row(7, "a.parquet", 3, {"prompt": "p", "key": None})
    moved = Row(7, "a.parquet", 3, {"prompt": "p", "key": 5, "rf_row_key": '"k"', "rf_job_seed": 1})
    assert key_of_row(own, mapping, 42) == (42, "5")
    assert key_of_row(placed, mapping, 42) == (42, ["a.parquet", 3])
    assert key_of_row(moved, mapping, 42) == (1, "k")
    assert key_of_row(own, {"prompt": "prompt"}, 42) == (42, ["a.parquet", 3])
    of = make_job("p", "o", seed=42)
    for row in (own, placed, moved):
        seed, key = key_of_row(row, mapping, 42)
        assert resolve_row(row, of, mapping)[0].seed == derive_seed(seed, key, 0)
