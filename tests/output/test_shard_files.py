"""What a shard's files hold, and what the writer refuses to lose."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from render_farm.output import shard_folder
from render_farm.output.containers import iter_samples
from render_farm.output.layout import CONTAINERS, ShardLayout
from render_farm.output.metadata import SampleRecord
from render_farm.output.parquet import read_metadata
from render_farm.output.shard_files import ShardWriter, Tally

NOTHING = pa.table({"label": pa.array([5, 6], pa.int8())})


def layout(container: str = "webdataset", *, rows: int = 2, samples: int = 1) -> ShardLayout:
    return ShardLayout(0, "aa", 10, rows, samples, container, "png")


def done(row: int, sample: int = 0, **values) -> SampleRecord:
    return SampleRecord(row=row, sample=sample, status="done", prompt="p", **values)


def quarantined(row: int, **values) -> SampleRecord:
    return SampleRecord(row=row, status="quarantined", error_type="bad", error="why", **values)


def test_rejected_holds_filtered_samples_and_one_line_a_quarantined_row(write_shard):
    files = {file.key: file.path for file in write_shard("files")}
    table = read_metadata(files["rejected/000007-a1b2.parquet"])
    columns = ["row", "sample", "status", "error_type", "key", "format", "width", "size_bytes"]
    assert table.select([*columns, "label"]).to_pylist() == [
        dict(zip([*columns, "label"], line, strict=True))
        for line in (
            (102, None, "quarantined", "first", None, None, None, None, 3),
            (103, 0, "filtered", None, "000000103_00", "png", 24, 7, None),
        )
    ]


def test_the_tally_counts_rows_and_samples_apart(tmp_path):
    writer = ShardWriter(tmp_path, layout(rows=4, samples=2))
    for row, sample, status in [
        (10, 0, "done"),
        (10, 1, "filtered"),
        (11, 0, "filtered"),
        (11, 1, "filtered"),
        (12, 0, "done"),
    ]:
        record = SampleRecord(row=row, sample=sample, status=status, prompt="p")
        if status == "done":
            writer.add(record, b"x")
        else:
            writer.reject(record)
    writer.reject(quarantined(12, sample=1))
    writer.reject(quarantined(13))
    assert writer.tally() == Tally(1, 1, 2, 1, 3, {"bad": 2})


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_shard_of_quarantined_rows_has_a_rejected_file_only(container, tmp_path):
    writer = ShardWriter(tmp_path, layout(container))
    writer.reject(quarantined(11))
    writer.add(done(10), b"taken back")
    writer.reject(quarantined(10))
    files = writer.close(NOTHING)
    assert [file.key for file in files] == ["rejected/000000-aa.parquet"]
    assert read_metadata(files[0].path)["row"].to_pylist() == [10, 11]


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_shard_without_rejected_rows_has_no_rejected_file(container, tmp_path):
    writer = ShardWriter(tmp_path, layout(container))
    writer.add(done(11), b"b")
    writer.add(done(10), b"a")
    assert not any(file.key.startswith("rejected") for file in writer.close(NOTHING))


def test_a_row_or_sample_that_is_unaccounted_for_is_not_written(tmp_path):
    writer = ShardWriter(tmp_path, layout(samples=2))
    writer.add(done(10), b"a")
    writer.add(done(10, 1), b"b")
    writer.add(done(11), b"c")
    with pytest.raises(ValueError, match="row 11 has 1 samples"):
        writer.close(NOTHING)
    writer.add(done(11, 1), b"d")
    assert writer.close(NOTHING)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (done(10), "taken already"),
        (done(9), "row 9 is not in"),
        (done(12), "row 12 is not in"),
        (done(11, 1), "no sample 1"),
        (quarantined(11), "allowed: 'done'"),
    ],
)
def test_what_is_not_of_the_shard_is_refused(record, message, tmp_path):
    writer = ShardWriter(tmp_path, layout())
    writer.add(done(10), b"a")
    with pytest.raises(ValueError, match=message):
        writer.add(record, b"b")


def test_carried_rows_must_be_those_of_the_shard(tmp_path):
    writer = ShardWriter(tmp_path, layout(rows=1))
    writer.add(done(10), b"a")
    with pytest.raises(ValueError, match="carried has 2 rows"):
        writer.close(NOTHING)


def test_a_shard_without_carried_columns_is_written(tmp_path):
    writer = ShardWriter(tmp_path, layout("parquet", rows=1))
    writer.add(done(10), b"a")
    (file,) = writer.close(NOTHING.select([]))
    assert pq.read_table(file.path)["image"].to_pylist() == [
        {"bytes": b"a", "path": "000000010_00.png"}
    ]


def test_row_groups_stay_small(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_folder, "ROW_GROUP_BYTES", 100_000)
    writer = ShardWriter(tmp_path, layout("parquet", rows=20))
    for row in range(10, 30):
        writer.add(done(row), bytes([row]) * 30_000)
    (file,) = writer.close(pa.table({"label": list(range(20))}))
    metadata = pq.ParquetFile(file.path).metadata
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [3] * 6 + [2]
    table = pq.read_table(file.path)
    assert table["label"].to_pylist() == list(range(20))
    assert [image["bytes"][0] for image in table["image"].to_pylist()] == list(range(10, 30))


def test_images_in_a_container_do_not_stay_on_the_scratch_disk(tmp_path):
    writer = ShardWriter(tmp_path, layout(rows=1))
    writer.add(done(10), b"a")
    writer.close(NOTHING.slice(0, 1))
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {
        "000000-aa.tar",
        "000000-aa.parquet",
    }


THREADS = 8


def fill(writer: ShardWriter, row: int) -> None:
    """Samples of a row; every fifth row is quarantined by each of its four samples."""
    for sample in range(4):
        if row % 5 == 0:
            writer.reject(quarantined(row, sample=3 - sample, worker=f"of {3 - sample}"))
        elif sample == 3:
            writer.reject(SampleRecord(row=row, sample=3, status="filtered", prompt="p"))
        else:
            writer.add(done(row, sample), f"{row}-{sample};".encode() * (row % 9 + 1))


@pytest.mark.parametrize("container", CONTAINERS)
def test_many_threads_add_every_sample_once(container, tmp_path, eager_threads):
    rows, carried = range(10, 210), pa.table({"label": list(range(200))})
    alone = ShardWriter(tmp_path / "alone", layout(container, rows=200, samples=4))
    for row in rows:
        fill(alone, row)
    together = ShardWriter(tmp_path / "together", layout(container, rows=200, samples=4))
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda row: fill(together, row), rows))
    assert together.tally() == alone.tally() == Tally(160, 0, 40, 480, 160, {"bad": 40})
    expected = [(file.key, file.sha256) for file in alone.close(carried)]
    assert [(file.key, file.sha256) for file in together.close(carried)] == expected


def test_of_many_threads_with_one_sample_one_is_taken(tmp_path, eager_threads):
    writer = ShardWriter(tmp_path, layout("parquet", rows=1))
    start = threading.Barrier(THREADS)

    def taken(thread: int) -> bool:
        start.wait(60)
        try:
            writer.add(done(10, worker=f"{thread}"), f"{thread}".encode())
        except ValueError:
            return False
        return True

    with ThreadPoolExecutor(THREADS) as pool:
        winner = list(pool.map(taken, range(THREADS)))
    assert sum(winner) == 1
    (file,) = writer.close(NOTHING.slice(0, 1))
    (line,) = pq.read_table(file.path).to_pylist()
    assert line["worker"] == str(winner.index(True)) == line["image"]["bytes"].decode()


def test_of_many_threads_with_faults_of_one_row_the_first_sample_s_is_kept(tmp_path, eager_threads):
    rows = range(10, 310)
    writer = ShardWriter(tmp_path, layout(rows=len(rows), samples=THREADS))
    start = threading.Barrier(THREADS)

    def reject(sample: int) -> None:
        for row in rows:
            start.wait(60)
            writer.reject(quarantined(row, sample=sample, worker=f"{sample}"))

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(reject, range(THREADS)))
    (file,) = writer.close(NOTHING.select([]))
    assert set(read_metadata(file.path)["worker"].to_pylist()) == {"0"}


def test_samples_are_counted_while_others_add_theirs(tmp_path, eager_threads):
    rows = 2500 * THREADS
    writer = ShardWriter(tmp_path, layout("parquet", rows=rows))

    def add(thread: int) -> None:
        for row in range(10 + thread, 10 + rows, THREADS):
            writer.add(done(row), b"a")

    with ThreadPoolExecutor(THREADS) as pool:
        adding = [pool.submit(add, thread) for thread in range(THREADS)]
        counts = [0]
        while counts[-1] < rows and not any(f.done() and f.exception() for f in adding):
            counts.append(writer.tally().samples_done)
    assert counts == sorted(counts)
    assert counts[-1] == rows


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_shard_larger_than_its_memory_is_written_whole(container, tmp_path):
    writer = ShardWriter(tmp_path, layout(container, rows=20))
    for row in range(29, 9, -1):
        writer.add(done(row), bytes([row]) * (1 << 20))
    files = {file.key: file.path for file in writer.close(pa.table({"label": list(range(20))}))}
    name = "data/000000-aa" + (".tar" if container == "webdataset" else ".parquet")
    with files[name].open("rb") as stream:
        samples = list(iter_samples(container, stream, lambda key: files[key].read_bytes()))
    assert [sample.image for sample in samples] == [
        bytes([row]) * (1 << 20) for row in range(10, 30)
    ]
