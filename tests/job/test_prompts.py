"""The prompt dataset: found, surveyed, unified, and read back row by row. All files are real."""

from __future__ import annotations

import hashlib
import io
import os
import random
import secrets
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from render_farm.errors import InputError, Problem
from render_farm.job.discover import find_files
from render_farm.job.plan import Plan, limited
from render_farm.job.prompts import PromptDataset, ShardReader, survey
from render_farm.job.schema import conform
from render_farm.store.open import open_store
from tests.making.jobs import write_prompts
from tests.servers.moto import MotoServer

Put = Callable[[str, bytes], None]


def parquet_bytes(table: pa.Table | None = None, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(
        pa.table({"prompt": ["a", "b", "c"]}) if table is None else table, sink, **options
    )
    return sink.getvalue()


def write(path: Path, table: pa.Table, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return path


def problem_of(path: str | Path) -> Problem:
    with pytest.raises(InputError) as caught:
        survey(str(path))
    (problem,) = caught.value.problems
    assert problem.field == "prompts.path"
    assert problem.fix
    return problem


def read_all(dataset: PromptDataset, rows_per_shard: int, limit: int | None = None) -> pa.Table:
    """Every row through a `ShardReader`, shard after shard."""
    reader = ShardReader(dataset)
    plan = Plan(limited([file.rows for file in dataset.files], limit), rows_per_shard)
    tables = []
    for shard in plan:
        table = reader.read(shard)
        assert table.num_rows == shard.rows
        assert table.schema == dataset.schema
        tables.append(table)
    reader.close()
    return pa.concat_tables(tables)


@pytest.fixture(scope="session")
def bucket(moto_server: MotoServer) -> str:
    return moto_server.make_bucket(f"prompts-{secrets.token_hex(6)}")


@pytest.fixture(params=["folder", "memory", "s3"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, s3_env: Callable[..., None]
) -> tuple[str, Put]:
    """An empty place for a dataset in each kind of store: its URI, and how to write there."""
    name = secrets.token_hex(6)
    uri = f"memory://{name}/data"
    if request.param == "folder":
        uri = str(tmp_path / "data")
    elif request.param == "s3":
        s3_env(request.getfixturevalue("moto_server"))
        uri = f"s3://{request.getfixturevalue('bucket')}/{name}"
    return uri, open_store(uri).put


TREE = [
    "b.parquet",
    "a.parquet",
    "Z.parquet",
    "a10.parquet",
    "a2.parquet",
    "ä.parquet",
    "sub/c.parquet",
    "sub/deep/d.parquet",
    "sub-x/e.pq",
    "_temporary/0/half.parquet",
    "sub/.staging/f.parquet",
    "sub/_delta_log/g.parquet",
    ".hidden.parquet",
    "_metadata.parquet",
    "_SUCCESS",
    "readme.md",
    "parquet",
]
VISIBLE = [
    "Z.parquet",
    "a.parquet",
    "a10.parquet",
    "a2.parquet",
    "b.parquet",
    "sub-x/e.pq",
    "sub/c.parquet",
    "sub/deep/d.parquet",
    "ä.parquet",
]


@pytest.fixture
def tree(place: tuple[str, Put]) -> str:
    uri, put = place
    for key in TREE:
        put(key, b"")
    return uri


# --- finding the files ---


def test_a_folder_is_searched_through_and_sorted_bytewise(tree: str) -> None:
    for path in (tree, f"{tree}/"):
        root, keys = find_files(path)
        assert root.rstrip("/") == tree
        assert keys == VISIBLE
    assert sorted(VISIBLE, key=str.encode) == VISIBLE


GLOBS = {
    "*.parquet": ["Z.parquet", "a.parquet", "a10.parquet", "a2.parquet", "b.parquet", "ä.parquet"],
    "a*.parquet": ["a.parquet", "a10.parquet", "a2.parquet"],
    "a?.parquet": ["a2.parquet"],
    "?.parquet": ["Z.parquet", "a.parquet", "b.parquet", "ä.parquet"],
    "[ab].parquet": ["a.parquet", "b.parquet"],
    "[!a-z].parquet": ["Z.parquet", "ä.parquet"],
    "sub?c.parquet": None,
    "sub[!x]c.parquet": None,
    "*/*.parquet": ["sub/c.parquet"],
    "*/*": ["sub-x/e.pq", "sub/c.parquet"],
    "sub*/*": ["sub-x/e.pq", "sub/c.parquet"],
    "**/*.parquet": [key for key in VISIBLE if key.endswith(".parquet")],
    "**/d.parquet": ["sub/deep/d.parquet"],
    "**/deep/*": ["sub/deep/d.parquet"],
    "**/**/d*": ["sub/deep/d.parquet"],
    "*/**": ["sub-x/e.pq", "sub/c.parquet", "sub/deep/d.parquet"],
    "**/.staging/*": ["sub/.staging/f.parquet"],
    "_temp*/**": ["_temporary/0/half.parquet"],
    ".*": [".hidden.parquet"],
    "_*.parquet": ["_metadata.parquet"],
    "*.PARQUET": None,
    "*": [*VISIBLE[:5], "parquet", "readme.md", "ä.parquet"],
    "x*/": None,
    "[": None,
}
SOME_GLOBS = ("a?.parquet", "sub?c.parquet", "**/*.parquet")


def test_a_glob_finds_what_it_says_and_nothing_hidden(tree: str) -> None:
    for glob, expected in GLOBS.items():
        if tree.startswith("s3://") and glob not in SOME_GLOBS:  # each asks a slow server twice
            continue
        if expected is None:
            with pytest.raises(InputError, match="a Parquet file, or a folder or glob"):
                find_files(f"{tree}/{glob}")
        else:
            assert find_files(f"{tree}/{glob}") == (tree, expected), glob


def test_the_folder_before_the_first_wildcard_is_the_root(tree: str) -> None:
    assert find_files(f"{tree}/sub/*.parquet") == (f"{tree}/sub", ["c.parquet"])
    assert find_files(f"{tree}/sub/**") == (f"{tree}/sub", ["c.parquet", "deep/d.parquet"])
    assert find_files(f"{tree}/s*b/**/*.parquet") == (tree, ["sub/c.parquet", "sub/deep/d.parquet"])


def test_what_the_path_says_itself_is_never_hidden(tree: str) -> None:
    assert find_files(f"{tree}/_temporary/0") == (f"{tree}/_temporary/0", ["half.parquet"])
    assert find_files(f"{tree}/_temporary/*/*")[1] == ["0/half.parquet"]
    assert find_files(f"{tree}/.hidden.parquet") == (tree, [".hidden.parquet"])


def test_a_single_file_has_its_folder_as_root(tree: str) -> None:
    assert find_files(f"{tree}/sub/c.parquet") == (f"{tree}/sub", ["c.parquet"])
    assert find_files(f"{tree}/readme.md") == (tree, ["readme.md"])


def test_a_folder_called_like_a_file_is_a_folder(place: tuple[str, Put]) -> None:
    uri, put = place
    put("x.parquet/_SUCCESS", b"")
    put("x.parquet/part-00001-7f.snappy.parquet", parquet_bytes())
    put("x.parquet/part-00000-7f.snappy.parquet", parquet_bytes())
    dataset = survey(f"{uri}/x.parquet")
    assert dataset.root.rstrip("/").endswith("x.parquet")
    assert [file.path for file in dataset.files] == [
        "part-00000-7f.snappy.parquet",
        "part-00001-7f.snappy.parquet",
    ]
    assert sum(file.rows for file in dataset.files) == 6
    assert survey(f"{uri}/*/part-*").files[0].path == "x.parquet/part-00000-7f.snappy.parquet"


def test_odd_but_honest_names_are_found(place: tuple[str, Put]) -> None:
    uri, put = place
    names = [
        "a b.parquet",
        "a%20b.parquet",
        "a+b.parquet",
        "{x}.parquet",
        "ä/☃.parquet",
        "-.parquet",
    ]
    for name in names:
        put(name, parquet_bytes())
    assert find_files(uri)[1] == sorted(names, key=str.encode)
    for name in names:
        assert survey(f"{uri}/{name}").files[0].path == name.rpartition("/")[2]


def test_a_file_whose_name_has_wildcards_in_it_is_taken_as_it_is(tmp_path: Path) -> None:
    write_prompts(tmp_path / "a[1]*.parquet")
    write_prompts(tmp_path / "a1.parquet")
    assert find_files(f"{tmp_path}/a[1]*.parquet")[1] == ["a[1]*.parquet"]


def test_a_place_without_files_is_refused(place: tuple[str, Put]) -> None:
    uri, put = place
    put("readme.md", b"")
    for path in ("", "none.parquet", "none/", "*.parquet", "none/**/*.parquet"):
        problem = problem_of(f"{uri}/{path}")
        assert problem.value == repr(f"{uri}/{path}")
        assert "*.parquet files in it" in problem.allowed


def test_paths_relative_to_the_working_directory_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_prompts(tmp_path / "a.parquet")
    write_prompts(tmp_path / "sub/b.parquet")
    monkeypatch.chdir(tmp_path / "sub")
    for path, keys in {
        "b.parquet": ["b.parquet"],
        "./b.parquet": ["b.parquet"],
        "*.parquet": ["b.parquet"],
        ".": ["b.parquet"],
        "..": ["a.parquet", "sub/b.parquet"],
        "../": ["a.parquet", "sub/b.parquet"],
        "../*/b.parquet": ["sub/b.parquet"],
        "../../" + tmp_path.name: ["a.parquet", "sub/b.parquet"],
    }.items():
        assert find_files(path)[1] == keys, path
    assert survey(".").root == str(tmp_path / "sub")


@pytest.mark.parametrize("path", ["a\\b.parquet", "data\\*.parquet", "a\0b"])
def test_a_path_that_no_store_can_hold_is_refused(path: str) -> None:
    problem = problem_of(path)
    assert problem.value == repr(path)
    assert "/" in problem.fix


def test_a_file_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    source = write_prompts(tmp_path / "source.parquet")
    (tmp_path / "d").mkdir()
    shutil.copy(source, os.fsencode(tmp_path / "d") + b"/\xff.parquet")
    problem = problem_of(tmp_path / "d")
    assert "udcff" in problem.value
    assert problem.fix == "rename the file"


# --- the survey ---


def test_a_survey_pins_every_file_by_size_digest_and_rows(place: tuple[str, Put]) -> None:
    uri, put = place
    data = {f"{n}.parquet": parquet_bytes(pa.table({"prompt": ["x"] * n})) for n in (5, 1, 3)}
    for key, content in data.items():
        put(key, content)
    dataset = survey(uri)
    assert dataset.root == open_store(uri).uri
    assert dataset.schema == pa.schema({"prompt": pa.string()})
    assert [(f.path, f.rows, f.size_bytes, f.sha256) for f in dataset.files] == [
        (key, int(key[0]), len(data[key]), hashlib.sha256(data[key]).hexdigest())
        for key in sorted(data)
    ]
    assert read_all(dataset, 2).num_rows == 9


def test_empty_files_and_row_groups_count_as_no_rows(tmp_path: Path) -> None:
    schema = pa.schema({"prompt": pa.string()})
    write(tmp_path / "a.parquet", schema.empty_table())
    with pq.ParquetWriter(tmp_path / "b.parquet", schema) as writer:
        for prompts in ([], ["x"], [], ["y", "z"], []):
            writer.write_table(pa.table({"prompt": prompts}, schema=schema))
    pq.ParquetWriter(tmp_path / "c.parquet", schema).close()
    dataset = survey(str(tmp_path))
    assert [file.rows for file in dataset.files] == [0, 3, 0]
    for rows_per_shard in (1, 2, 5):
        assert read_all(dataset, rows_per_shard)["prompt"].to_pylist() == ["x", "y", "z"]


def test_a_dataset_without_rows_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / f"{name}.parquet", pa.schema({"prompt": pa.string()}).empty_table())
    problem = problem_of(tmp_path)
    assert problem.value == repr(f"{tmp_path} (0 rows)")
    assert problem.allowed == "a dataset with rows"


def test_a_column_that_stands_twice_is_refused_with_its_file(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["prompt", "prompt"])
    write_prompts(tmp_path / "a.parquet")
    write(tmp_path / "b.parquet", table)
    problem = problem_of(tmp_path)
    assert "b.parquet (columns that stand twice: prompt)" in problem.value


def footer_spoiled(data: bytes) -> bytes:
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    return data[:start] + bytes(byte ^ 0x5A for byte in data[start:-8]) + data[-8:]


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


GOOD = parquet_bytes(
    pa.table({"prompt": [f"picture {number}" * 20 for number in range(50)]}),
    write_page_checksum=True,
    use_dictionary=False,
    write_statistics=False,
    compression="none",
    row_group_size=10,
)
CORRUPT = {
    "zero bytes": b"",
    "four bytes": b"PAR1",
    "not Parquet": b"id,prompt\n1,a cat\n" * 50,
    "the footer alone": GOOD[-200:],
    "cut in half": GOOD[: len(GOOD) // 2],
    "cut by a byte": GOOD[:-1],
    "without its beginning": GOOD[100:],
    "a longer end": GOOD + b"\0",
    "a spoiled footer": footer_spoiled(GOOD),
    "a footer of zeros": GOOD[:-200] + bytes(192) + GOOD[-8:],
    "a footer longer than the file": GOOD[:-8] + b"\xff\xff\xff\x7fPAR1",
    "encrypted": GOOD[:-4] + b"PARE",
    "a flipped bit in the first page": flipped(GOOD, GOOD.index(b"picture 0") + 3),
    "a flipped bit in the last page": flipped(GOOD, GOOD.rindex(b"picture 49") + 3),
    "another file's middle": GOOD[:300] + bytes(300) + GOOD[600:],
}


@pytest.mark.parametrize("damage", CORRUPT)
def test_a_corrupt_file_is_found_and_named_before_anything_is_rendered(
    damage: str, tmp_path: Path
) -> None:
    (tmp_path / "a.parquet").write_bytes(GOOD)
    (tmp_path / "b.parquet").write_bytes(CORRUPT[damage])
    (tmp_path / "c.parquet").write_bytes(GOOD)
    problem = problem_of(tmp_path)
    assert f"{tmp_path}: b.parquet" in problem.value
    assert problem.allowed == "Parquet files that can be read from end to end"
    assert len(str(problem)) < 600


def test_no_damage_does_anything_but_be_refused_or_leave_the_rows_as_they_were() -> None:
    """What checksums do not cover (schema, statistics) may change names, never crash."""
    store, chance = open_store("memory://damage/d"), random.Random(20)
    outcomes = set()
    for _ in range(400):
        data = bytearray(GOOD)
        for _ in range(chance.choice([1, 1, 3])):
            at = chance.choice([chance.randrange(len(data)), len(data) - chance.randrange(1, 500)])
            data[at] ^= 1 << chance.randrange(8)
        store.put("x.parquet", bytes(data))
        try:
            dataset = survey("memory://damage/d/x.parquet")
            assert dataset.files[0].rows == 50
            outcomes.add("read")
        except InputError as error:
            outcomes.add(error.problems[0].field)
    assert outcomes == {"read", "prompts.path"}


def test_a_column_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    data = parquet_bytes(pa.table({"prompt": ["a"], "naive": [1]}), store_schema=False)
    (tmp_path / "a.parquet").write_bytes(data.replace(b"naive", b"na\xefve"))
    problem = problem_of(tmp_path)
    assert "utf-8" in problem.value


def test_a_footer_that_lies_about_its_row_groups_is_refused(tmp_path: Path) -> None:
    """Two row groups of 40 and 60 rows whose counts are swapped: the total is still true."""
    table = pa.table({"prompt": ["x"] * 100})
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, table.schema, use_dictionary=False) as writer:
        writer.write_table(table.slice(0, 40))
        writer.write_table(table.slice(40))
    data = sink.getvalue()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    # A RowGroup's num_rows is a zigzag i64, after which comes its file_offset: 40 is 0x50.
    few, many = b"\x16\x50\x26", b"\x16\x78\x26"
    head, tail = data[:footer], data[footer:]
    assert tail.count(few) == tail.count(many) == 1
    first, middle = tail.split(few)
    middle, last = middle.split(many)
    (tmp_path / "a.parquet").write_bytes(head + first + many + middle + few + last)
    problem_of(tmp_path)


# --- types and schemas ---

KINDS_OF_TEXT = {
    "string": pa.array(["a", None, "ü"]),
    "large_string": pa.array(["a", None, "ü"], pa.large_string()),
    "string_view": pa.array(["a", None, "ü"], pa.string_view()),
    "dictionary": pa.array(["a", None, "ü"]).dictionary_encode(),
    "large dictionary": pa.array(["a", None, "ü"], pa.large_string()).dictionary_encode(),
}


@pytest.mark.parametrize("kind", KINDS_OF_TEXT)
def test_every_type_of_text_is_read(kind: str, tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", pa.table({"prompt": KINDS_OF_TEXT[kind]}), row_group_size=2)
    for rows_per_shard in (1, 2, 3):
        table = read_all(survey(str(tmp_path)), rows_per_shard)
        assert table["prompt"].to_pylist() == ["a", None, "ü"]


@pytest.mark.parametrize("one", KINDS_OF_TEXT)
@pytest.mark.parametrize("other", KINDS_OF_TEXT)
def test_all_types_of_text_go_together(one: str, other: str, tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", pa.table({"prompt": KINDS_OF_TEXT[one]}))
    write(tmp_path / "b.parquet", pa.table({"prompt": KINDS_OF_TEXT[other]}))
    assert read_all(survey(str(tmp_path)), 2)["prompt"].to_pylist() == ["a", None, "ü"] * 2


@pytest.mark.parametrize("kind", KINDS_OF_TEXT)
def test_tables_of_every_type_of_text_conform_in_memory_too(kind: str) -> None:
    table = pa.table({"prompt": KINDS_OF_TEXT[kind], "extra": [1, 2, 3]})
    schema = pa.schema({"label": pa.int8(), "prompt": pa.string()})
    found = conform(table, schema)
    assert found.schema == schema
    assert found.to_pydict() == {"label": [None] * 3, "prompt": ["a", None, "ü"]}


def test_files_that_each_have_their_own_dictionary_are_read_right(tmp_path: Path) -> None:
    for number, words in enumerate((["x", "y"], ["y", "z"])):
        column = pa.array(words * 3).dictionary_encode()
        write(tmp_path / f"{number}.parquet", pa.table({"prompt": column}), row_group_size=3)
    found = read_all(survey(str(tmp_path)), 4)["prompt"].to_pylist()
    assert found == ["x", "y"] * 3 + ["y", "z"] * 3


UNIFIED: list[tuple[Any, Any, pa.DataType]] = [
    (pa.array([1], pa.int8()), pa.array([2], pa.int64()), pa.int64()),
    (pa.array([1], pa.uint32()), pa.array([-2], pa.int64()), pa.int64()),
    (pa.array([2**53]), pa.array([0.5]), pa.float64()),
    (pa.array([0.5], pa.float32()), pa.array([0.25]), pa.float64()),
    (pa.nulls(1), pa.array(["x"]), pa.string()),
    (pa.nulls(1), pa.array([[1, 2]]), pa.list_(pa.field("element", pa.int64()))),
    (pa.array([0], pa.timestamp("s")), pa.array([1], pa.timestamp("us")), pa.timestamp("us")),
]


@pytest.mark.parametrize(("one", "other", "kind"), UNIFIED, ids=lambda value: str(value)[:20])
def test_types_are_widened_to_hold_all_files(
    one: Any, other: Any, kind: pa.DataType, tmp_path: Path
) -> None:
    write(tmp_path / "a.parquet", pa.table({"prompt": ["p"], "x": one}))
    write(tmp_path / "b.parquet", pa.table({"prompt": ["q"], "x": other}))
    dataset = survey(str(tmp_path))
    assert dataset.schema.field("x").type == kind
    assert read_all(dataset, 1)["x"].to_pylist() == one.to_pylist() + other.cast(kind).to_pylist()


def test_columns_that_a_file_lacks_are_null_there(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", pa.table({"prompt": ["p"], "x": [1]}))
    write(tmp_path / "b.parquet", pa.table({"y": [[1]], "prompt": ["q"]}))
    assert read_all(survey(str(tmp_path)), 1).to_pylist() == [
        {"prompt": "p", "x": 1, "y": None},
        {"prompt": "q", "x": None, "y": [1]},
    ]


@pytest.mark.parametrize("first", [0, 1])
def test_a_column_that_may_not_be_null_in_one_file_may_be_in_all(
    first: int, tmp_path: Path
) -> None:
    schema = pa.schema([pa.field("prompt", pa.string(), nullable=False), pa.field("x", pa.int64())])
    strict = pa.schema([*schema, pa.field("y", pa.int64(), nullable=False)])
    write(tmp_path / f"{first}.parquet", pa.table({"prompt": ["p"], "x": [1]}, schema=schema))
    write(tmp_path / f"{1 - first}.parquet", pa.table([["q"], [2], [3]], schema=strict))
    table = read_all(survey(str(tmp_path)), 1)
    assert sorted(table["y"].to_pylist(), key=str) == [3, None]
    write(tmp_path / "result/out.parquet", table)  # the result can be written


def test_columns_in_another_order_and_other_metadata_are_the_same_schema(tmp_path: Path) -> None:
    one = pa.table({"prompt": ["p"], "x": [1]}).replace_schema_metadata({"pandas": "{}"})
    write(tmp_path / "a.parquet", one)
    write(tmp_path / "b.parquet", pa.table({"x": [2], "prompt": ["q"]}))
    dataset = survey(str(tmp_path))
    assert dataset.schema == pa.schema({"prompt": pa.string(), "x": pa.int64()})
    assert not dataset.schema.metadata
    assert read_all(dataset, 1).to_pydict() == {"prompt": ["p", "q"], "x": [1, 2]}


NOT_TOGETHER: list[tuple[Any, Any]] = [
    (pa.array([1]), pa.array(["x"])),
    (pa.array([True]), pa.array([1])),
    (pa.array([[1]]), pa.array([["x"]])),
    (pa.array([{"a": 1}]), pa.array(["x"])),
    (pa.array([0], pa.timestamp("us", "UTC")), pa.array([0], pa.timestamp("us"))),
]


@pytest.mark.parametrize(("one", "other"), NOT_TOGETHER, ids=lambda value: str(value.type))
def test_types_that_do_not_go_together_are_refused(one: Any, other: Any, tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", pa.table({"prompt": ["p"], "x": one}))
    write(tmp_path / "b.parquet", pa.table({"prompt": ["p"], "x": other}))
    problem = problem_of(tmp_path)
    assert str(tmp_path) in problem.value
    assert "x" in problem.value
    assert problem.allowed == "files whose columns of one name have types that go together"


VALUES_LOST: list[tuple[Any, Any]] = [
    (pa.array([1, 2**60 + 1]), pa.array([0.5])),
    (pa.array([2**64 - 1], pa.uint64()), pa.array([1])),
    (pa.array([2**50], pa.timestamp("ms")), pa.array([1], pa.timestamp("ns"))),
    (pa.array([{"a": 2**60 + 1}]), pa.array([{"a": 0.5}])),
    (pa.array([["0.12345678901234567891"]]).values.cast(pa.decimal128(38, 20)), pa.array([0.5])),
]


@pytest.mark.parametrize(("one", "other"), VALUES_LOST, ids=lambda value: str(value.type))
@pytest.mark.parametrize("first", [0, 1])
def test_values_that_the_wider_type_would_change_are_refused(
    one: Any, other: Any, first: int, tmp_path: Path
) -> None:
    write(tmp_path / f"{first}.parquet", pa.table({"prompt": ["p"] * len(one), "x": one}))
    write(tmp_path / f"{1 - first}.parquet", pa.table({"prompt": ["p"], "x": other}))
    problem = problem_of(tmp_path)
    assert f"{first}.parquet" in problem.value
    assert "'x'" in problem.value
    assert problem.fix == "rewrite the files with one type for 'x'"


def test_a_wider_type_is_no_trouble_where_every_value_fits(tmp_path: Path) -> None:
    digits = pa.array([None, 15], pa.int64()).cast(pa.decimal128(38, 0))
    write(tmp_path / "a.parquet", pa.table({"prompt": ["p"] * 2, "x": [1, -5], "y": digits}))
    write(tmp_path / "b.parquet", pa.table({"prompt": ["p"], "x": [0.5], "y": [0.5]}))
    table = read_all(survey(str(tmp_path)), 2)
    assert table["x"].to_pylist() == [1.0, -5.0, 0.5]
    assert table["y"].to_pylist() == [None, 15.0, 0.5]


# --- reading shards ---


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    files=st.lists(st.integers(0, 25), min_size=1, max_size=4).filter(any),
    row_group=st.integers(1, 12),
    rows_per_shard=st.integers(1, 30),
    limit=st.none() | st.integers(1, 60),
)
def test_shards_hold_exactly_the_rows_of_the_dataset_in_order(
    files: list[int], row_group: int, rows_per_shard: int, limit: int | None
) -> None:
    name = secrets.token_hex(6)
    store, everything = open_store(f"memory://{name}/d"), []
    for number, rows in enumerate(files):
        values = [number * 1000 + row for row in range(rows)]
        everything += values
        texts = pa.array([str(value) for value in values], pa.string())
        table = pa.table({"prompt": texts, "n": pa.array(values, pa.int64())})
        store.put(f"{number}.parquet", parquet_bytes(table, row_group_size=row_group))
    dataset = survey(f"memory://{name}/d")
    table = read_all(dataset, rows_per_shard, limit)
    assert table["n"].to_pylist() == everything[:limit]
    assert table["prompt"].to_pylist() == [str(value) for value in everything[:limit]]


def test_shards_may_be_read_in_any_order_and_again(tmp_path: Path) -> None:
    for number in range(3):
        n = [number * 100 + row for row in range(20)]
        write_prompts(tmp_path / f"{number}.parquet", rows=20, row_group=6, n=n)
    dataset = survey(str(tmp_path))
    plan = Plan([file.rows for file in dataset.files], 7)
    order = [*range(plan.shards), *reversed(range(plan.shards)), 0, 8, 0, 4, 4]
    reader = ShardReader(dataset)
    for index in order:
        shard = plan.shard(index)
        first = shard.file * 100 + shard.first_row_in_file
        assert reader.read(shard)["n"].to_pylist() == list(range(first, first + shard.rows))
    reader.close()
    assert reader.read(plan.shard(0)).num_rows == 7
    reader.close()


@pytest.mark.parametrize("change", ["other rows", "longer", "cut", "gone"])
def test_a_file_changed_since_the_survey_is_refused(change: str, tmp_path: Path) -> None:
    uri = str(tmp_path / "data")
    put = open_store(uri).put
    put("a.parquet", parquet_bytes())
    data = parquet_bytes(pa.table({"prompt": ["x", "y"]}))
    put("b.parquet", data)
    dataset = survey(uri)
    if change == "gone":
        open_store(uri).delete("b.parquet")
    else:
        other = parquet_bytes(pa.table({"prompt": ["x", "z"]}))
        assert len(other) == len(data)
        put("b.parquet", {"other rows": other, "longer": data + b"\0", "cut": data[:-1]}[change])
    reader, plan = ShardReader(dataset), Plan([3, 2], 2)
    assert reader.read(plan.shard(0)).num_rows == 2
    with pytest.raises(InputError) as caught:
        reader.read(plan.shard(2))
    (problem,) = caught.value.problems
    assert problem.field == "prompts.path"
    assert "b.parquet" in problem.value
    assert "put the file back" in problem.fix
    assert reader.read(plan.shard(1)).num_rows == 1  # the reader is as good as before
    reader.close()


def test_a_file_changed_while_it_is_being_read_is_read_as_it_was_pinned(tmp_path: Path) -> None:
    path = write_prompts(tmp_path / "a.parquet", rows=8, row_group=2)
    dataset = survey(str(path))
    reader, plan = ShardReader(dataset), Plan([8], 4)
    first = reader.read(plan.shard(0))["id"].to_pylist()
    write_prompts(path, rows=8, id=["other"] * 8)
    assert first + reader.read(plan.shard(1))["id"].to_pylist() == [f"row-{n}" for n in range(8)]
    reader.close()


def test_the_survey_and_the_reader_leave_no_files_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    path = write_prompts(tmp_path / "d/a.parquet")
    (tmp_path / "d/b.parquet").write_bytes(path.read_bytes()[:-9])
    problem_of(tmp_path / "d")
    dataset = survey(str(path))
    reader = ShardReader(dataset)
    reader.read(Plan([20], 8).shard(0))
    assert list(scratch.iterdir()) == []  # unlinked from the start, even while it is open
    reader.close()


def test_memory_grows_with_the_row_group_and_not_with_the_file(tmp_path: Path) -> None:
    noise = random.Random(1)
    schema = pa.schema({"prompt": pa.string(), "blob": pa.binary()})
    with pq.ParquetWriter(tmp_path / "a.parquet", schema, compression="none") as writer:
        for _ in range(24):
            rows = {"prompt": ["x"] * 4, "blob": [noise.randbytes(250_000) for _ in range(4)]}
            writer.write_table(pa.table(rows, schema=schema))
    pool = pa.default_memory_pool()
    before = pool.bytes_allocated()
    dataset = survey(str(tmp_path))
    reader = ShardReader(dataset)
    held = []
    for shard in Plan([96], 4):
        reader.read(shard)
        held.append(pool.bytes_allocated() - before)
    reader.close()
    assert max(held) < 6_000_000  # a file of 24 MB in row groups of 1 MB
