"""Every defect is found and goes by its right name, in each container."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from render_farm.ledger import keys
from render_farm.ledger.cancel import cancel_run
from render_farm.ledger.receipt import (
    DataObject,
    Receipt,
    RowCounts,
    SampleCounts,
    read_receipt,
)
from render_farm.ledger.record import RunRecord
from render_farm.ledger.rollup import Rollups, recall_receipts
from render_farm.output.layout import CONTAINERS
from render_farm.store.base import Store
from render_farm.views.verify import Verdict, verify_run
from tests.making.stores import FaultyStore, drive_on, render_on
from tests.views.conftest import POISONED, ROWS, Made

SHARD = 1  # rows 4 to 7, of which row 5 is quarantined
DONE_ROWS = ROWS - 1


def counts(verdict: Verdict) -> dict[str, int]:
    found = verdict.to_json()
    kinds = ("lost", "duplicated", "unexpected", "corrupt", "orphans")
    return {kind: found[kind] for kind in kinds if found[kind]}


def words(store: Store, record: RunRecord) -> set[str]:
    """Under which words the defects are reported; there must be some."""
    verdict = verify_run(store, record)
    assert not verdict.ok
    assert verdict.findings.problems
    return set(counts(verdict))


def receipt_of(store: Store, shard: int = SHARD) -> Receipt:
    receipt = read_receipt(store, shard)
    assert receipt is not None
    return receipt


def data_key(store: Store, suffix: str = ".parquet", shard: int = SHARD) -> str:
    [item] = [
        item
        for item in receipt_of(store, shard).objects
        if item.key.startswith(keys.DATA) and item.key.endswith(suffix)
    ]
    return item.key


def vouch(store: Store, key: str, data: bytes) -> None:
    """Put an object and make its receipt, and the manifest, agree with it: a perfect forgery."""
    store.put(key, data)
    receipt = receipt_of(store)
    item = DataObject(key=key, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    objects = tuple(item if old.key == key else old for old in receipt.objects)
    forge(store, receipt.model_copy(update={"objects": objects}))


def forge(store: Store, receipt: Receipt) -> None:
    store.put(keys.receipt(receipt.shard), receipt.to_bytes())
    store.delete(keys.MANIFEST)


def rewrite(store: Store, key: str, change: Callable[[pa.Table], pa.Table]) -> None:
    table = change(pq.read_table(pa.BufferReader(store.get(key))))
    sink = io.BytesIO()
    pq.write_table(table, sink, write_page_checksum=True)
    vouch(store, key, sink.getvalue())


def members(data: bytes) -> list[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [(member.name, tar.extractfile(member).read()) for member in tar]


def tar_of(content: list[tuple[str, bytes]]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in content:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return sink.getvalue()


def container(record: RunRecord) -> str:
    return record.job.output.container


def only(*wanted: str) -> Any:
    return pytest.mark.parametrize("whole_run", wanted, indirect=True)


def test_a_whole_run_is_whole(run: Made) -> None:
    verdict = verify_run(*run)
    assert verdict.to_json() == {
        "ok": True,
        "samples": DONE_ROWS * 2,
        "rows": {
            "planned": ROWS,
            "done": DONE_ROWS,
            "filtered": 0,
            "quarantined": 1,
            "cancelled": 0,
            "pending": 0,
        },
        "lost": 0,
        "duplicated": 0,
        "unexpected": 0,
        "corrupt": 0,
        "orphans": 0,
        "problems": [],
    }


def test_every_object_that_is_deleted_is_missed(run: Made) -> None:
    store, record = run
    for info in [*store.list(keys.DATA), *store.list(keys.REJECTED)]:
        data = store.get(info.key)
        store.delete(info.key)
        assert words(store, record) & {"lost", "corrupt"}
        store.put(info.key, data)
    assert verify_run(store, record).ok


def test_samples_whose_object_is_gone_are_lost(run: Made) -> None:
    store, record = run
    suffix = ".tar" if container(record) == "webdataset" else ".parquet"
    store.delete(data_key(store, suffix))
    found = counts(verify_run(store, record))
    assert found["lost"] == 6
    assert found["corrupt"] >= 1


@only("files")
def test_an_image_that_is_gone_is_one_sample_lost(run: Made) -> None:
    store, record = run
    images = [info.key for info in store.list(keys.DATA) if info.key.endswith(".png")]
    assert len(images) == DONE_ROWS * 2
    store.delete(images[0])
    assert counts(verify_run(store, record)) == {"lost": 1}


def test_a_quarantined_row_without_its_line_is_lost(run: Made) -> None:
    store, record = run
    [info] = store.list(keys.REJECTED)
    store.delete(info.key)
    assert counts(verify_run(store, record)) == {"lost": 2, "corrupt": 1}


def test_a_byte_flipped_anywhere_is_found_and_never_an_exception(run: Made) -> None:
    store, record = run
    chance = random.Random(container(record))
    objects = [*store.list(keys.DATA), *store.list(keys.REJECTED)]
    for info in objects[:: max(1, len(objects) // 8)]:
        whole = store.get(info.key)
        for _ in range(12):
            harmed = bytearray(whole)
            harmed[chance.randrange(len(harmed))] ^= 1 << chance.randrange(8)
            store.put(info.key, bytes(harmed))
            assert verify_run(store, record).findings.corrupt
        store.put(info.key, whole)
    assert verify_run(store, record).ok


def test_an_object_cut_short_is_corrupt(run: Made) -> None:
    store, record = run
    for info in [*store.list(keys.DATA), *store.list(keys.REJECTED)]:
        whole = store.get(info.key)
        store.put(info.key, whole[: len(whole) // 2])
        assert "corrupt" in words(store, record)
        store.put(info.key, whole)


@only("webdataset")
def test_images_that_changed_places_are_corrupt_even_if_the_tar_is_vouched_for(run: Made) -> None:
    store, record = run
    key = data_key(store, ".tar")
    content = members(store.get(key))
    (name_a, image_a), (name_b, image_b) = content[0], content[3]
    content[0], content[3] = (name_a, image_b), (name_b, image_a)
    vouch(store, key, tar_of(content))
    # two images, and the metadata beside the tar says otherwise
    assert counts(verify_run(store, record)) == {"corrupt": 3}


@only("parquet")
def test_images_that_changed_places_in_parquet_are_corrupt(run: Made) -> None:
    store, record = run

    def swap(table: pa.Table) -> pa.Table:
        images = table["image"].to_pylist()
        images[0], images[1] = images[1], images[0]
        return table.set_column(0, table.schema.field(0), pa.array(images, table["image"].type))

    rewrite(store, data_key(store), swap)
    assert counts(verify_run(store, record)) == {"corrupt": 2}


@only("files")
def test_image_files_that_changed_places_are_corrupt(run: Made) -> None:
    store, record = run
    a, b, *_ = (info.key for info in store.list(keys.DATA) if info.key.endswith(".png"))
    first, second = store.get(a), store.get(b)
    store.put(a, second)
    store.put(b, first)
    assert counts(verify_run(store, record)) == {"corrupt": 2}


@only("webdataset")
def test_metadata_beside_a_tar_must_list_the_same_samples(run: Made) -> None:
    store, record = run
    rewrite(store, data_key(store), lambda table: table.slice(1))
    assert counts(verify_run(store, record)) == {"corrupt": 1}


@only("webdataset")
def test_a_tar_without_metadata_beside_it_is_corrupt(run: Made) -> None:
    store, record = run
    receipt = receipt_of(store)
    objects = tuple(item for item in receipt.objects if item.key != data_key(store))
    forge(store, receipt.model_copy(update={"objects": objects}))
    assert counts(verify_run(store, record))["corrupt"] == 1


@only("parquet", "files")
def test_a_sample_without_its_line_of_metadata_is_lost(run: Made) -> None:
    store, record = run
    rewrite(store, data_key(store), lambda table: table.slice(1))
    # in container files its picture is still there, and nobody names it any more
    left_behind = {"unexpected": 1} if container(record) == "files" else {}
    assert counts(verify_run(store, record)) == {"lost": 1} | left_behind


@only("webdataset")
def test_a_sample_that_left_the_tar_and_the_metadata_is_lost(run: Made) -> None:
    store, record = run
    key = data_key(store, ".tar")
    vouch(store, key, tar_of(members(store.get(key))[3:]))
    rewrite(store, data_key(store), lambda table: table.slice(1))
    assert counts(verify_run(store, record)) == {"lost": 1}


def test_a_sample_that_is_there_twice_is_duplicated(run: Made) -> None:
    store, record = run
    rewrite(store, data_key(store), lambda table: pa.concat_tables([table, table.slice(0, 1)]))
    if container(record) == "webdataset":
        key = data_key(store, ".tar")
        content = members(store.get(key))
        vouch(store, key, tar_of([*content, *content[:3]]))
    assert words(store, record) == {"duplicated"}


def test_a_quarantined_row_that_is_there_twice_is_duplicated(run: Made) -> None:
    store, record = run
    [info] = store.list(keys.REJECTED)
    rewrite(store, info.key, lambda table: pa.concat_tables([table, table]))
    assert counts(verify_run(store, record)) == {"duplicated": 1}


def test_a_row_that_is_quarantined_and_rendered_is_duplicated(run: Made) -> None:
    store, record = run
    [info] = store.list(keys.REJECTED)
    assert POISONED != 4
    rewrite(store, info.key, lambda table: with_column(table, "row", [4]))
    assert words(store, record) == {"duplicated", "lost"}


def with_column(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    index = table.schema.get_field_index(name)
    field = table.schema.field(name)
    return table.set_column(index, field, pa.array(values, field.type))


def test_a_sample_done_and_filtered_is_duplicated_and_so_is_one_filtered_twice(run: Made) -> None:
    store, record = run
    [info] = store.list(keys.REJECTED)

    def add(*lines: tuple[int, int]) -> Callable[[pa.Table], pa.Table]:
        def change(table: pa.Table) -> pa.Table:
            extra = pa.concat_tables([table.slice(0, 1)] * len(lines))
            extra = with_column(extra, "row", [row for row, _ in lines])
            extra = with_column(extra, "sample", [sample for _, sample in lines])
            extra = with_column(extra, "status", ["filtered"] * len(lines))
            return pa.concat_tables([table, extra])

        return change

    rewrite(store, info.key, add((4, 0)))
    assert counts(verify_run(store, record)) == {"duplicated": 1}
    rewrite(store, info.key, add((4, 0)))
    assert counts(verify_run(store, record))["duplicated"] > 1


def test_samples_that_nobody_planned_are_unexpected(run: Made) -> None:
    store, record = run
    [info] = store.list(keys.REJECTED)
    for row in (0, 99, -1):
        whole = store.get(info.key)
        rewrite(store, info.key, lambda table, row=row: with_column(table, "row", [row]))
        found = counts(verify_run(store, record))
        assert found == {"unexpected": 1, "lost": 2}
        vouch(store, info.key, whole)


def test_the_samples_of_another_attempt_are_unexpected(run: Made) -> None:
    store, record = run
    [info] = store.list(keys.REJECTED)
    rewrite(store, info.key, lambda table: with_column(table, "attempt", ["0other"]))
    assert counts(verify_run(store, record)) == {"unexpected": 1}


def test_a_receipt_that_names_another_shards_objects_is_caught(run: Made) -> None:
    store, record = run
    foreign = receipt_of(store, 0)
    forge(store, receipt_of(store).model_copy(update={"objects": foreign.objects}))
    found = words(store, record)
    assert {"unexpected", "lost"} <= found


def test_cancelled_rows_have_no_objects(run: Made) -> None:
    store, record = run
    receipt = receipt_of(store)
    cancelled = {"kind": "cancelled", "counts": RowCounts(cancelled=4), "samples": SampleCounts()}
    forge(store, receipt.model_copy(update=cancelled))
    assert counts(verify_run(store, record)) == {"unexpected": len(receipt.objects)}


@only("files")
def test_a_picture_that_no_metadata_names_is_unexpected(run: Made) -> None:
    store, record = run
    image = next(info.key for info in store.list(keys.DATA) if info.key.endswith(".png"))
    store.put(image.replace("_00.png", "_77.png"), store.get(image))
    assert counts(verify_run(store, record)) == {"unexpected": 1}


@only("files")
def test_pictures_are_no_strangers_because_their_metadata_is_gone(run: Made) -> None:
    store, record = run
    store.delete(data_key(store))
    assert counts(verify_run(store, record)) == {"corrupt": 1, "lost": 6}


@only("webdataset")
def test_however_long_a_problem_is_it_is_told_in_few_words(run: Made) -> None:
    store, record = run
    store.put("data/" + "x" * 900, b"")
    [problem] = verify_run(store, record).findings.problems
    assert problem.startswith("unexpected: data/xxx")
    assert len(problem) < 510


@pytest.mark.parametrize("chosen", CONTAINERS)
@pytest.mark.parametrize(
    "carried",
    [
        pa.array([b"fine", b"\xff\xfe", None, b"fine"], pa.binary()).view(pa.string()),
        pa.array([1, 2, 2**62 + 3, 4], pa.timestamp("ns")),
    ],
    ids=["not-utf8", "nanoseconds"],
)
def test_carried_values_that_python_has_no_form_for_are_no_defect(
    make_run: Callable[..., Made], chosen: str, carried: pa.Array
) -> None:
    scales = [7.5, 7.5, -1.0, -1.0]
    columns = {"carried": carried, "guidance_scale": scales}
    store, record = make_run(4, columns, output={"container": chosen})
    drive_on(store, record)
    verdict = verify_run(store, record)
    assert verdict.ok, verdict
    assert verdict.rows["quarantined"] == 2


def test_an_object_under_another_attempts_key_is_unexpected(run: Made) -> None:
    store, record = run
    [info] = store.list(keys.REJECTED)
    moved = "rejected/000001-0other.parquet"
    store.put(moved, store.get(info.key))
    receipt = receipt_of(store)
    objects = tuple(
        item.model_copy(update={"key": moved}) if item.key == info.key else item
        for item in receipt.objects
    )
    forge(store, receipt.model_copy(update={"objects": objects}))
    # the name that the receipt gives, and the attempt's own object that it does not name any more
    assert counts(verify_run(store, record)) == {"unexpected": 2, "orphans": 1}


@only("parquet")
def test_a_sample_under_another_samples_name_is_corrupt(run: Made) -> None:
    store, record = run

    def rename(table: pa.Table) -> pa.Table:
        return with_column(table, "key", ["000000009_00", *table["key"].to_pylist()[1:]])

    rewrite(store, data_key(store), rename)
    assert counts(verify_run(store, record)) == {"corrupt": 1}


@only("webdataset")
def test_a_line_that_is_twice_in_the_metadata_beside_a_tar_is_duplicated(run: Made) -> None:
    store, record = run
    rewrite(store, data_key(store), lambda table: pa.concat_tables([table, table.slice(0, 1)]))
    assert counts(verify_run(store, record)) == {"duplicated": 1}


def test_a_receipt_beyond_the_plan_is_unexpected(run: Made) -> None:
    store, record = run
    foreign = receipt_of(store).model_copy(update={"shard": 3})
    store.put(keys.receipt(3), foreign.to_bytes())
    assert "unexpected" in words(store, record)


def test_a_receipt_for_other_rows_is_corrupt(run: Made) -> None:
    store, record = run
    forge(store, receipt_of(store).model_copy(update={"first_row": 5}))
    assert counts(verify_run(store, record)) == {"corrupt": 1}


@pytest.mark.parametrize("field", ["rows", "samples"])
def test_a_receipt_that_counts_otherwise_is_corrupt(field: str, run: Made) -> None:
    store, record = run
    receipt = receipt_of(store)
    wrong = {
        "rows": {"counts": receipt.counts.model_copy(update={"done": 4, "quarantined": 0})},
        "samples": {"samples": receipt.samples.model_copy(update={"done": 5})},
    }
    forge(store, receipt.model_copy(update=wrong[field]))
    assert counts(verify_run(store, record)) == {"corrupt": 1}


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document["objects"][0].update(sha256="0" * 64),
        lambda document: document["objects"].pop(),
        lambda document: document["rows"].update(done=1),
        lambda document: document["samples"].update(planned=1),
        lambda document: document.update(token="another"),
        lambda document: document.clear(),
    ],
)
@only("webdataset")
def test_an_altered_manifest_is_corrupt(change: Callable[[dict], Any], run: Made) -> None:
    store, record = run
    document = json.loads(store.get(keys.MANIFEST))
    change(document)
    store.put(keys.MANIFEST, json.dumps(document).encode())
    assert counts(verify_run(store, record)) == {"corrupt": 1}


@only("webdataset")
@pytest.mark.parametrize("garbage", [b"", b"{", b"\xff"])
def test_a_manifest_of_garbage_is_corrupt(garbage: bytes, run: Made) -> None:
    store, record = run
    store.put(keys.MANIFEST, garbage)
    assert counts(verify_run(store, record)) == {"corrupt": 1}


@only("webdataset")
def test_a_manifest_of_a_run_with_an_open_shard_is_corrupt(run: Made) -> None:
    store, record = run
    store.delete(keys.receipt(2))
    verdict = verify_run(store, record)
    assert verdict.findings.corrupt == 1
    assert not verdict.complete


@only("webdataset")
def test_a_manifest_that_appears_while_verify_reads_is_not_held_against_it(run: Made) -> None:
    store, record = run
    manifest, receipt = store.get(keys.MANIFEST), store.get(keys.receipt(2))
    store.delete(keys.MANIFEST)
    store.delete(keys.receipt(2))

    def completes(call, act):
        listed = list(act())
        store.put(keys.receipt(2), receipt)
        store.put(keys.MANIFEST, manifest)
        return iter(listed)

    script = {("list", keys.RECEIPTS): completes}
    live = FaultyStore(store, lambda call: script.get((call.method, call.key)))
    verdict = verify_run(live, record)
    assert verdict.findings.whole
    assert not verdict.complete


def test_orphans_are_counted_and_spoil_nothing(run: Made) -> None:
    store, record = run
    store.put("data/000001-0dead.tar", b"x")
    store.put("rejected/000002-0dead.parquet", b"x")
    verdict = verify_run(store, record)
    assert verdict.ok
    assert counts(verdict) == {"orphans": 2}


def test_a_run_that_is_not_complete_is_not_ok_and_not_corrupt_either(
    make_run: Callable[..., Made],
) -> None:
    store, record = make_run()
    verdict = verify_run(store, record)
    assert not verdict.ok
    assert not verdict.complete
    assert verdict.findings.whole
    assert verdict.rows["pending"] == ROWS
    render_on(store, record, SHARD)
    store.put("data/000000-0open.tar", b"x")
    verdict = verify_run(store, record)
    assert not verdict.ok
    assert counts(verdict) == {}
    assert verdict.rows["pending"] == ROWS - 4


def test_a_cancelled_run_is_ok_and_complete(make_run: Callable[..., Made]) -> None:
    store, record = make_run()
    render_on(store, record, 0)
    cancel_run(store, record)
    verdict = verify_run(store, record)
    assert verdict.ok
    assert verdict.rows["cancelled"] == ROWS - 4


def test_many_defects_are_all_counted_and_some_told(make_run: Callable[..., Made]) -> None:
    store, record = make_run(rows=130, shards={"rows": 1}, defaults={"width": 8, "height": 8})
    drive_on(store, record)
    for info in list(store.list(keys.DATA)):
        store.delete(info.key)
    verdict = verify_run(store, record)
    assert verdict.findings.lost == 129
    assert len(verdict.findings.problems) == 100


def test_reading_back_needs_no_memory_of_the_run(
    make_run: Callable[..., Made], tmp_path: Path
) -> None:
    """No call fetches a manifest or a data object whole: they are streamed to disk."""
    store, record = make_run()
    drive_on(store, record)
    watched = FaultyStore(store)
    verify_run(watched, record)
    whole = {key for key in watched.made("get") if not key.startswith(keys.RECEIPTS)}
    assert whole == set()


@pytest.mark.parametrize(
    "stray",
    [
        "data/stray.tar",
        "data/000099-abc.tar",
        "receipts/.DS_Store",
        "receipts/000099.json",
        "rejected/notes.txt",
    ],
)
@only("webdataset")
def test_an_object_that_is_nobodys_is_unexpected(run: Made, stray: str) -> None:
    """``data/*.tar`` is the dataset, so nothing else may lie there."""
    store, record = run
    store.put(stray, b"left here by somebody")
    assert counts(verify_run(store, record)) == {"unexpected": 1}


def test_no_rollup_vouches_for_a_receipt_that_says_something_else(
    make_run: Callable[..., Made],
) -> None:
    """A copy that everybody else believes proves nothing."""
    store, record = make_run(rows=100, shards={"rows": 1})
    drive_on(store, record)
    rollups = Rollups(store, record)
    list(recall_receipts(store, record, rollups=rollups))
    rollups.flush()
    assert [info.key for info in store.list(keys.ROLLUPS)] == [keys.rollup(0)]
    assert verify_run(store, record).ok
    honest = receipt_of(store, 9)
    mirrored = tuple(
        item.model_copy(update={"sha256": item.sha256[::-1]}) for item in honest.objects
    )
    store.put(
        keys.receipt(9), honest.model_copy(update={"objects": mirrored}).to_bytes()
    )  # of the same length
    assert honest in list(recall_receipts(store, record))
    assert words(store, record) == {"corrupt"}
    watched = FaultyStore(store)
    verify_run(watched, record)
    assert not any(call.key.startswith(keys.ROLLUPS) for call in watched.calls)


@pytest.mark.parametrize("broken", [False, True], ids=["all readable", "one not"])
def test_objects_of_many_shards_are_held_against_their_own_receipts(
    broken: bool, make_run: Callable[..., Made]
) -> None:
    store, record = make_run(rows=80, shards={"rows": 1})
    drive_on(store, record)
    for shard in range(0, 80, 7):
        store.put(f"data/{shard:06d}-lost{shard}.tar", b"an orphan")
    attempt = receipt_of(store, 33).attempt
    store.put(f"data/000033-{attempt}.notes", b"a stranger")
    store.delete(keys.receipt(44))  # open again: whatever lies there is its attempts' business
    store.put("data/000044-zombie.tar", b"about to win")
    if broken:
        store.put(keys.receipt(14), b"{")
    verdict = verify_run(store, record)
    assert (verdict.orphans, verdict.findings.unexpected) == (11 if broken else 12, 1)


@only("webdataset")
def test_a_receipt_that_cannot_be_read_is_corrupt_and_its_rows_are_missing(run: Made) -> None:
    store, record = run
    store.put(keys.receipt(0), b"{")
    verdict = verify_run(store, record)
    assert verdict.findings.corrupt >= 1
    assert not verdict.ok
