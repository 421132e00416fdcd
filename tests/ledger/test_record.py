"""run.json: made once, held against every later submit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import pytest

from render_farm.errors import InputError
from render_farm.farm.opening import new_run_record
from render_farm.farm.prepare import Prepared, prepare
from render_farm.ledger import keys
from render_farm.ledger.record import RunRecord, compare, create_record, is_free, read_record
from render_farm.store.memory import MemoryStore
from tests.making.jobs import make_job, write_prompts
from tests.making.stores import FaultyStore, exists_by_own_write, fails, in_turn, loses_answer


@pytest.fixture
def record(prepared: Prepared) -> RunRecord:
    return new_run_record(prepared)


def with_job(record: RunRecord, key: str, value: object) -> RunRecord:
    section, _, name = key.partition(".")
    if not name:
        return record.model_copy(update={"job": record.job.model_copy(update={key: value})})
    changed = getattr(record.job, section).model_copy(update={name: value})
    return record.model_copy(update={"job": record.job.model_copy(update={section: changed})})


def test_a_record_reads_back_as_it_was_written(record: RunRecord) -> None:
    store = MemoryStore()
    assert create_record(store, record) is record
    assert read_record(store) == record
    assert read_record(store).make_plan().shards == record.plan.shards == 2


def test_a_record_that_went_through_json_differs_in_nothing_from_a_new_one(
    prepared: Prepared,
) -> None:
    store = MemoryStore()
    first = create_record(store, new_run_record(prepared))
    again = create_record(store, new_run_record(prepared))
    assert again.token == first.token
    assert compare(read_record(store), new_run_record(prepared)) == []


def test_a_run_of_one_model_is_written_as_it_was_before_there_could_be_several(
    record: RunRecord,
) -> None:
    written = record.model_dump(mode="json")
    assert list(written) == [
        "version",
        "token",
        "created_at",
        "job",
        "prompts",
        "model",
        "plan",
        "versions",
    ]
    assert list(written["job"])[:4] == ["name", "prompts", "model", "defaults"]
    assert "model" not in written["job"]["defaults"]
    assert "models" not in record.model_dump_json()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 1),
        ("defaults.negative_prompt", "fog"),
        ("defaults.width", 24),
        ("defaults.height", 24),
        ("defaults.steps", 5),
        ("defaults.guidance_scale", 1.5),
        ("defaults.scheduler", "ddim"),
        ("defaults.samples", 3),
        ("output.container", "parquet"),
        ("output.image", "jpeg"),
        ("output.quality", 50),
        ("output.uri", "memory://elsewhere"),
        ("shards.rows", 2),
        ("workers.batch_size", 4),
        ("prompts.limit", 2),
        ("prompts.path", "/elsewhere/prompts.parquet"),
        ("model.path", "another"),
        ("model.dtype", "bfloat16"),
        ("model.engine", "call"),
        ("model.offload", "model"),
        ("model.clip_skip", 2),
        ("model.compile", False),
        ("model.safety_checker", True),
    ],
)
def test_a_pinned_key_that_changed_is_refused_with_both_values(
    key: str, value: object, record: RunRecord
) -> None:
    store = MemoryStore()
    create_record(store, record)
    section, _, name = key.partition(".")
    pinned = getattr(getattr(record.job, section), name) if name else getattr(record.job, key)
    assert pinned != value
    with pytest.raises(InputError) as caught:
        create_record(store, with_job(record, key, value))
    [problem] = caught.value.problems
    assert problem.field == key
    assert problem.value == repr(value)
    assert problem.allowed.startswith(f"{pinned!r}, pinned by the run at ")
    assert problem.fix
    assert read_record(store) == record


def test_every_key_of_a_job_is_either_pinned_or_known_to_be_free(record: RunRecord) -> None:
    free = {
        f"{section}.{key}"
        for section, values in record.job.model_dump().items()
        if isinstance(values, dict)
        for key in values
        if is_free(f"{section}.{key}")
    }
    assert free == {
        "limits.attempts",
        "limits.max_quarantined",
        "limits.on_flagged",
        "limits.stalled_after_s",
        "workers.count",
        "workers.gpus",
        "workers.cpus",
        "workers.resources",
        "workers.open_shards",
    }
    assert is_free("name")
    assert not is_free("seed")


def test_other_software_and_another_hour_are_not_another_run(record: RunRecord) -> None:
    assert compare(record, record.model_copy(update={"versions": {"numpy": "1"}})) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "another"),
        ("limits.attempts", 9),
        ("limits.max_quarantined", 0.5),
        ("workers.count", 7),
        ("workers.gpus", 0.5),
        ("workers.cpus", 3),
    ],
)
def test_a_free_key_may_change(key: str, value: object, record: RunRecord) -> None:
    store = MemoryStore()
    create_record(store, record)
    assert create_record(store, with_job(record, key, value)) == record


def test_another_model_under_the_same_name_is_refused(record: RunRecord) -> None:
    for field in ("revision", "digest"):
        other = record.model_copy(update={"model": record.model.model_copy(update={field: "b"})})
        [problem] = compare(record, other)
        assert field in problem.field
        assert "'b'" in problem.value


def test_a_dataset_whose_file_changed_is_refused(tmp_path: Path) -> None:
    def of(rows: int, **columns) -> RunRecord:
        prompts = write_prompts(tmp_path / "p.parquet", rows, **columns)
        return new_run_record(prepare(make_job(prompts, "memory://changed/run"), "/nonexistent"))

    before = of(8)
    assert compare(before, of(8)) == []
    [problem] = compare(before, of(8, label=[9] * 8))
    assert problem.field == "prompts (files)"
    assert compare(before, of(9)) != []


def test_another_mapping_of_columns_is_refused(prepared: Prepared, record: RunRecord) -> None:
    other = new_run_record(replace(prepared, columns={**prepared.columns, "prompt": "id"}))
    [problem] = compare(record, other)
    assert problem.field == "prompts.columns"


def test_creators_that_race_agree_on_one_record(prepared: Prepared) -> None:
    rivals = 6
    store, barrier = MemoryStore(), Barrier(rivals)

    def race(number: int) -> str:
        record = new_run_record(prepared)
        barrier.wait()
        return create_record(store, record).token

    with ThreadPoolExecutor(rivals) as pool:
        tokens = set(pool.map(race, range(rivals)))
    assert tokens == {read_record(store).token}


@pytest.mark.parametrize("fault", [fails, loses_answer, exists_by_own_write])
def test_a_lost_answer_does_not_keep_a_run_from_being_made(fault, record: RunRecord) -> None:
    store = FaultyStore(MemoryStore(), in_turn("create", keys.RUN, fault))
    assert create_record(store, record).token == record.token
    assert read_record(store) == record


def test_a_place_without_a_run_is_the_users_mistake() -> None:
    with pytest.raises(InputError, match="submit makes a run"):
        read_record(MemoryStore("memory://empty"))


@pytest.mark.parametrize("garbage", [b"", b"{}", b"\x00", b'{"version": 2}', b"[1]"])
def test_a_run_json_of_garbage_is_no_run(garbage: bytes, record: RunRecord) -> None:
    store = MemoryStore("memory://garbage")
    store.put(keys.RUN, garbage)
    with pytest.raises(InputError, match=r"memory://garbage/run\.json"):
        read_record(store)
    with pytest.raises(InputError, match=r"memory://garbage/run\.json"):
        create_record(store, record)
    assert store.get(keys.RUN) == garbage
