"""The seed rule. Its golden values may never change: they are what makes a picture again.

Computed independently of the package, for instance::

    int.from_bytes(hashlib.sha256(b'[0,"row-1",0]').digest()[:8], "big") % 2**63
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from render_farm.job.plan import Plan
from render_farm.job.prompts import ShardReader, survey
from render_farm.job.request import RenderRequest
from render_farm.job.resolve import map_columns, resolve_row
from render_farm.job.rows import rows_of
from render_farm.job.seeds import (
    SEED_LIMIT,
    RowKey,
    derive_seed,
    reroll_seed,
    row_key,
    sample_seed,
)
from tests.making.jobs import make_job, write_prompts

# The bytes that are hashed, what they stand for, and the seed.
GOLDEN = [
    (b'[0,"row-1",0]', (0, "row-1", 0), 468673937819708495),
    (b'[0,"row-1",1]', (0, "row-1", 1), 2099698927193221387),
    (b'[1,"row-1",0]', (1, "row-1", 0), 3058810859665863815),
    (b'[9223372036854775807,"",99]', (9223372036854775807, "", 99), 1367319623096026066),
    (b'[0,"k\\u00e4se \\u2603 \\ud83d\\ude00",0]', (0, "käse ☃ 😀", 0), 5945720052459773811),
    (b'[0,"quote \\" and \\\\ \\n",0]', (0, 'quote " and \\ \n', 0), 991573237048381627),
    (b'[0,["prompts.parquet",0],0]', (0, ["prompts.parquet", 0], 0), 5174564755214345871),
    (
        b'[42,["part/\\u00f6.parquet",10752],3]',
        (42, ["part/ö.parquet", 10752], 3),
        3593121870788382429,
    ),
    (b'[12345,"sample",1]', (12345, "sample", 1), 4641220054070006643),
    (b'[0,"sample",99]', (0, "sample", 99), 8462685328760720708),
    (b'[12345,"reroll",1]', (12345, "reroll", 1), 8299223453343687697),
    (b'[9223372036854775807,"reroll",2]', (9223372036854775807, "reroll", 2), 5985294530470857608),
]
SEEDS = st.integers(0, SEED_LIMIT - 1)


@pytest.mark.parametrize(("hashed", "parts", "seed"), GOLDEN)
def test_seeds_are_the_pinned_ones(hashed: bytes, parts: tuple[object, ...], seed: int) -> None:
    assert derive_seed(*parts) == seed
    assert int.from_bytes(hashlib.sha256(hashed).digest()[:8], "big") % 2**63 == seed


def test_a_row_without_a_seed_column_gets_seeds_from_job_seed_key_and_sample() -> None:
    assert sample_seed(0, "row-1", None, 0) == derive_seed(0, "row-1", 0)
    assert sample_seed(7, ["a/b.parquet", 3], None, 2) == derive_seed(7, ["a/b.parquet", 3], 2)


def test_sample_0_takes_the_seed_column_as_it_is_and_the_others_are_derived_from_it() -> None:
    assert sample_seed(99, "any", 12345, 0) == 12345
    assert sample_seed(99, "any", 0, 0) == 0
    assert sample_seed(99, "any", 12345, 1) == derive_seed(12345, "sample", 1)


@given(job=SEEDS, other=SEEDS, seed=SEEDS, sample=st.integers(0, 99))
def test_with_a_seed_column_neither_job_seed_nor_key_matter(
    job: int, other: int, seed: int, sample: int
) -> None:
    assert sample_seed(job, "a", seed, sample) == sample_seed(other, ["f", 1], seed, sample)


def test_a_reroll_depends_on_the_sample_s_seed_and_its_number() -> None:
    assert reroll_seed(12345, 1) == derive_seed(12345, "reroll", 1)
    assert len({12345, *(reroll_seed(12345, n) for n in range(1, 50))}) == 50


@given(parts=st.lists(st.one_of(st.integers(), st.text(), st.tuples(st.text(), st.integers()))))
def test_every_seed_lies_in_the_range_of_a_seed(parts: list[object]) -> None:
    assert 0 <= derive_seed(*parts) < SEED_LIMIT


def test_what_differs_in_anything_has_another_seed() -> None:
    keys: list[RowKey] = ["a", "b", "", "1", ["a", 0], ["a", 1], ["1", 0], '["a",0]', "ä", "a\0"]
    seeds = {
        sample_seed(job, key, None, sample) for job in (0, 1) for key in keys for sample in range(3)
    }
    assert len(seeds) == 2 * len(keys) * 3


def test_a_row_is_known_by_its_id_and_without_one_by_its_place() -> None:
    assert row_key("x", "f.parquet", 3) == "x"
    assert row_key("", "f.parquet", 3) == ""
    assert row_key(None, "f.parquet", 3) == ["f.parquet", 3]


def requests_of(path: Path, shard_rows: int = 3, **sections: object) -> list[RenderRequest]:
    """Every request of a dataset on disk, as a worker makes them."""
    job = make_job(path, path.parent / "out", **sections)
    dataset = survey(str(path))
    mapping = map_columns(job, dataset.schema)
    reader = ShardReader(dataset)
    requests = []
    for shard in Plan([file.rows for file in dataset.files], shard_rows):
        for row in rows_of(reader.read(shard), shard, dataset.files[shard.file].path, mapping):
            requests += resolve_row(row, job, mapping)
    reader.close()
    return requests


def test_order_of_rows_and_files_and_shard_size_do_not_matter_to_rows_with_ids(
    tmp_path: Path,
) -> None:
    ids = [f"row-{number}" for number in range(12)]
    write_prompts(tmp_path / "one/a.parquet", rows=12, id=ids)
    write_prompts(tmp_path / "two/a.parquet", rows=5, id=ids[7:])
    write_prompts(tmp_path / "two/z/b.parquet", rows=7, id=ids[:7][::-1])
    defaults = {"defaults": {"samples": 2}}
    one = requests_of(tmp_path / "one", 5, **defaults)
    two = requests_of(tmp_path / "two", 2, **defaults)
    assert {(r.id, r.sample): r.seed for r in one} == {(r.id, r.sample): r.seed for r in two}
    assert len({r.seed for r in one}) == 24


def test_rows_with_one_id_share_their_seeds(tmp_path: Path) -> None:
    write_prompts(tmp_path / "a.parquet", rows=3, id=["same", "same", "other"])
    first, second, third = requests_of(tmp_path / "a.parquet")
    assert first.seed == second.seed != third.seed


def test_rows_without_ids_are_known_by_file_and_place(tmp_path: Path) -> None:
    for name in ("d/a.parquet", "d/sub/a.parquet"):
        write_prompts(tmp_path / name, rows=4, id=pa.nulls(4, pa.string()))
    seeds = [request.seed for request in requests_of(tmp_path / "d", shard_rows=2)]
    places = [(name, row) for name in ("a.parquet", "sub/a.parquet") for row in range(4)]
    assert seeds == [derive_seed(0, list(place), 0) for place in places]


def test_a_single_file_is_known_by_its_base_name_wherever_it_lies(tmp_path: Path) -> None:
    columns = {"prompt": ["x", "y"], "id": pa.nulls(2, pa.string()), "label": [0, 1]}
    write_prompts(tmp_path / "here/a.parquet", rows=2, **columns)
    write_prompts(tmp_path / "there/deep/a.parquet", rows=2, **columns)
    here = requests_of(tmp_path / "here/a.parquet")
    there = requests_of(tmp_path / "there/deep/a.parquet")
    assert (
        [r.seed for r in here]
        == [r.seed for r in there]
        == [derive_seed(0, ["a.parquet", row], 0) for row in range(2)]
    )
