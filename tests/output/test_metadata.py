"""The columns of a result and the carried columns after them."""

from __future__ import annotations

import dataclasses
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from render_farm.output.json_form import json_rows, to_json
from render_farm.output.layout import ShardLayout
from render_farm.output.lines import Line, lines_to_table
from render_farm.output.metadata import METADATA_COLUMNS, SampleRecord, metadata_schema
from render_farm.output.parquet import read_metadata
from render_farm.output.shard_files import ShardWriter

DESIGN = [
    "shard",
    "row",
    "sample",
    "id",
    "prompt",
    "negative_prompt",
    "seed",
    "width",
    "height",
    "steps",
    "guidance_scale",
    "scheduler",
    "model",
    "revision",
    "dtype",
    "status",
    "error_type",
    "error",
    "key",
    "format",
    "size_bytes",
    "sha256",
    "mean_luma",
    "std_luma",
    "flags",
    "cut_tokens",
    "nsfw",
    "attempt",
    "worker",
    "device",
    "batch_shape",
    "render_s",
    "created_at",
    "render_farm_version",
]


def carried_names(*names: str, with_image: bool = False) -> list[str]:
    fields = pa.schema([(name, pa.int8()) for name in names])
    return metadata_schema(fields, with_image=with_image).names[len(DESIGN) :]


def test_the_columns_are_those_of_the_design():
    assert METADATA_COLUMNS.names == DESIGN
    recorded = {field.name for field in dataclasses.fields(SampleRecord)}
    written = {"shard", "attempt", "key", "format", "size_bytes", "sha256"}
    assert recorded | written == set(DESIGN)
    assert not recorded & written


def test_a_clash_gets_the_prefix_until_the_name_is_free():
    assert carried_names("a", "seed") == ["a", "input_seed"]
    assert carried_names("seed", "input_seed") == ["input_input_seed", "input_seed"]
    assert carried_names("input_seed", "seed") == ["input_seed", "input_input_seed"]
    assert carried_names("a", "a") == ["a", "input_a"]
    assert carried_names("image") == ["image"]
    assert carried_names("image", with_image=True) == ["input_image"]


def test_carried_columns_keep_type_and_value(write_shard):
    files = {file.key: file.path for file in write_shard("webdataset")}
    table = read_metadata(files["data/000007-a1b2.parquet"])
    start = table.slice(0, 1)
    assert table.schema.field("label").type == pa.uint16()
    assert table.schema.field("input_input_seed").type == pa.large_string()
    assert table.schema.field("input_seed").type == pa.float32()
    assert table.schema.field("at").type == pa.timestamp("ns", "Asia/Tokyo")
    assert table.schema.field("tags").type == pa.map_(pa.string(), pa.int8())
    assert pa.types.is_dictionary(table.schema.field("kind").type)
    assert start["boxes"].to_pylist() == [[{"name": "a", "xy": [0.1, 0.2]}]]
    assert start["blob"].to_pylist() == [b"\x00\xff"]
    assert table["label"].to_pylist() == [1, 1, 2, 2, None]
    assert table["input_input_seed"].to_pylist() == [None, None, "x", "x", "z"]
    assert table["at"].cast(pa.int64()).to_pylist() == [1, 1, None, None, 1_700_000_000_123_456_789]


@pytest.mark.parametrize(
    "values",
    [
        {
            "prompt": 5,
            "seed": 2**64,
            "width": "wide",
            "steps": 1.5,
            "flags": "x",
            "guidance_scale": "x",
        },
        {"prompt": "\ud800", "seed": -(2**70), "height": float("nan"), "id": 3.5},
        {"prompt": b"\xff", "steps": [1], "scheduler": {"a": 1}, "created_at": "yesterday"},
    ],
)
def test_a_raw_bad_value_of_a_quarantined_row_becomes_null(values, tmp_path):
    writer = ShardWriter(tmp_path, ShardLayout(0, "aa", 0, 1, 1, "files", "png"))
    writer.reject(SampleRecord(row=0, status="quarantined", error="why", worker="w", **values))
    (file,) = writer.close(pa.table({"label": [1]}))
    (line,) = read_metadata(file.path).to_pylist()
    assert {name: line[name] for name in values} == dict.fromkeys(values)
    assert (line["error"], line["worker"], line["label"], line["sample"]) == ("why", "w", 1, None)


def test_a_bad_value_of_a_done_sample_is_an_error():
    layout = ShardLayout(0, "aa", 0, 1, 2, "files", "png")
    good = Line(SampleRecord(row=0, sample=0, status="done", width=1))
    bad = Line(dataclasses.replace(good.record, width="wide"))
    assert lines_to_table([good, good], layout, pa.table({}))["width"].to_pylist() == [1, 1]
    with pytest.raises((pa.ArrowException, TypeError)):
        lines_to_table([good, bad], layout, pa.table({}))


def test_class_labels_of_the_input_are_declared_again_under_their_new_name(tmp_path):
    label = {"names": ["cat", "dog"], "_type": "ClassLabel"}
    declared = {"info": {"features": {"label": label, "seed": label, "gone": label}}}
    carried = pa.table({"label": [0], "seed": [1]}).replace_schema_metadata(
        {"huggingface": json.dumps(declared), "pandas": "{}"}
    )
    writer = ShardWriter(tmp_path, ShardLayout(0, "aa", 0, 1, 1, "parquet", "png"))
    writer.add(SampleRecord(row=0, sample=0, status="done", prompt=""), b"x")
    (file,) = writer.close(carried)
    metadata = pq.read_schema(file.path).metadata
    assert list(metadata) == [b"huggingface"]
    assert json.loads(metadata[b"huggingface"])["info"]["features"] == {
        "image": {"_type": "Image"},
        "input_seed": label,
        "label": label,
    }


@pytest.mark.parametrize("metadata", [{"huggingface": "{"}, {"huggingface": '{"info": []}'}, {}])
def test_broken_schema_metadata_of_the_input_does_no_harm(metadata, tmp_path):
    writer = ShardWriter(tmp_path, ShardLayout(0, "aa", 0, 1, 1, "files", "png"))
    writer.add(SampleRecord(row=0, sample=0, status="done", prompt=""), b"x")
    files = writer.close(pa.table({"label": [0]}).replace_schema_metadata(metadata))
    assert pq.read_schema(files[-1].path).metadata is None


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array([float("nan"), float("-inf"), 1.5]), [None, None, 1.5]),
        (pa.array([1.5], pa.float16()), [1.5]),
        (pa.array([2**64 - 1], pa.uint64()), [2**64 - 1]),
        (pa.array([b"\x00"], pa.binary(1)), ["AA=="]),
        (pa.array([0], pa.date32()), ["1970-01-01"]),
        (pa.array([1], pa.time64("us")), ["00:00:00.000001"]),
        (pa.array([5], pa.duration("ms")), [5]),
        (pa.array([0], pa.timestamp("s")), ["1970-01-01T00:00:00"]),
        (pa.array([[1, None]], pa.list_(pa.int8(), 2)), [[1, None]]),
        (pa.array([["x"]], pa.large_list(pa.string_view())), [["x"]]),
        (pa.array([{"a": {"b": [b"x"]}}]), [{"a": {"b": ["eA=="]}}]),
        (pa.nulls(1), [None]),
        (pa.array([True, None]), [True, None]),
        (pa.Array.from_buffers(pa.string(), 1, pa.array([b"a\xff"]).buffers()), ["a\\xff"]),
    ],
)
def test_every_arrow_value_has_a_json_form(array, expected):
    rows = list(json_rows(pa.table({"x": array})))
    assert [row["x"] for row in rows] == expected
    assert [json.loads(to_json(row)) for row in rows] == rows
