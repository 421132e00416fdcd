"""All three containers hold the same shard, and other tools read it as it is."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset as wds

from render_farm.output.codecs import EXTENSIONS, as_image, decode, encode
from render_farm.output.containers import iter_samples
from render_farm.output.corrupt import CorruptFile
from render_farm.output.layout import CONTAINERS, OutputFile
from render_farm.output.metadata import METADATA_COLUMNS
from render_farm.output.parquet import read_metadata, read_samples

DONE = ["000000100_00", "000000100_01", "000000101_00", "000000101_01", "000000103_01"]
PROMPT_101 = 'naïve 絵 🎨 \x00\x1b[31m\n\u2028"quoted" \\ end'

each_container = pytest.mark.parametrize("container", CONTAINERS)


def by_key(files: list[OutputFile]) -> dict[str, Path]:
    return {file.key: file.path for file in files}


def open_shard(container: str, files: list[OutputFile]) -> list:
    paths = by_key(files)
    name = "data/000007-a1b2" + (".tar" if container == "webdataset" else ".parquet")
    with paths[name].open("rb") as stream:
        return list(iter_samples(container, stream, lambda key: paths[key].read_bytes()))


@pytest.mark.parametrize("image_format", EXTENSIONS)
@each_container
def test_every_container_gives_back_every_done_sample(container, image_format, write_shard):
    samples = open_shard(container, write_shard(container, image_format))
    assert [sample.key for sample in samples] == DONE
    for sample in samples:
        row, index = (int(part) for part in sample.key.split("_"))
        pixels = np.random.default_rng([row, index]).integers(0, 256, (16, 24, 3), dtype=np.uint8)
        assert sample.image == encode(as_image(pixels), image_format, 90)
        assert decode(sample.image).shape == (16, 24, 3)
        assert sample.record["sha256"] == hashlib.sha256(sample.image).hexdigest()
        assert sample.record["size_bytes"] == len(sample.image)
        assert sample.record["format"] == image_format
        assert sample.record["flags"] == (["dark", "flat"] if index else [])
    assert samples[2].record["prompt"] == PROMPT_101


def test_the_metadata_does_not_depend_on_the_container(write_shard):
    shards = {container: write_shard(container, name=container) for container in CONTAINERS}
    tables = [read_metadata(by_key(files)["data/000007-a1b2.parquet"]) for files in shards.values()]
    assert tables[0].schema.equals(tables[1].schema)
    assert tables[0].schema.equals(tables[2].schema)
    records = [
        json.dumps([sample.record for sample in open_shard(container, files)])
        for container, files in shards.items()
    ]
    assert records[0] == records[1] == records[2]


@each_container
def test_the_bytes_do_not_depend_on_the_order_of_adding(container, write_shard):
    digests = [
        [(file.key, file.size_bytes, file.sha256) for file in write_shard(container, order=order)]
        for order in range(4)
    ]
    assert all(digest == digests[0] for digest in digests)


@each_container
def test_the_files_have_the_keys_of_the_design(container, write_shard):
    files = write_shard(container, "jpeg")
    images = [f"data/000007-a1b2/{key}.jpg" for key in DONE]
    data = {
        "webdataset": ["data/000007-a1b2.tar", "data/000007-a1b2.parquet"],
        "parquet": ["data/000007-a1b2.parquet"],
        "files": [*images, "data/000007-a1b2.parquet"],
    }
    assert [file.key for file in files] == [*data[container], "rejected/000007-a1b2.parquet"]
    assert {file.key for file in files if not file.listed_in_receipt} == set(
        images if container == "files" else []
    )
    for file in files:
        content = file.path.read_bytes()
        assert (file.size_bytes, file.sha256) == (
            len(content),
            hashlib.sha256(content).hexdigest(),
        )


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # its open file
def test_webdataset_reads_the_tar_as_it_is(write_shard):
    path = by_key(write_shard("webdataset"))["data/000007-a1b2.tar"]
    samples = list(wds.WebDataset(str(path), shardshuffle=False).decode("rgb8"))
    assert [sample["__key__"] for sample in samples] == DONE
    assert samples[0]["png"].shape == (16, 24, 3)
    assert samples[2]["txt"] == samples[2]["json"]["prompt"] == PROMPT_101
    assert samples[0]["json"]["seed"] == 2**63 - 1


def test_the_tar_carries_no_time_and_no_owner(write_shard):
    path = by_key(write_shard("webdataset"))["data/000007-a1b2.tar"]
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    assert [member.name for member in members[:3]] == [
        "000000100_00.png",
        "000000100_00.json",
        "000000100_00.txt",
    ]
    for member in members:
        assert (member.mtime, member.uid, member.gid, member.mode) == (0, 0, 0, 0o644)
        assert (member.uname, member.gname, member.pax_headers) == ("", "", {})


def test_the_json_has_the_columns_in_the_order_of_the_schema(write_shard):
    files = write_shard("webdataset")
    table = pq.read_table(by_key(files)["data/000007-a1b2.parquet"])
    with tarfile.open(by_key(files)["data/000007-a1b2.tar"]) as tar:
        record = json.load(tar.extractfile("000000103_01.json"))
    assert list(record) == table.column_names
    assert list(record)[: len(METADATA_COLUMNS)] == METADATA_COLUMNS.names
    assert record["created_at"] == "2026-11-22T12:00:00.000005Z"
    assert record["boxes"] == [{"name": None, "xy": None}, {"name": "é", "xy": [None]}]
    assert record["blob"] == "eA=="
    assert record["at"] == "2023-11-14T22:13:20.123456789Z"
    assert record["price"] == "-3.00"
    assert record["tags"] == [["a", None]]
    assert record["kind"] is None


def test_the_parquet_container_declares_its_images_to_datasets(write_shard):
    path = by_key(write_shard("parquet"))["data/000007-a1b2.parquet"]
    file = pq.ParquetFile(path)
    features = json.loads(file.schema_arrow.metadata[b"huggingface"])["info"]["features"]
    assert features == {"image": {"_type": "Image"}}
    image = file.read().column("image")
    assert image.type == pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    assert image[2].as_py()["path"] == "000000101_00.png"
    column = next(
        file.metadata.row_group(0).column(index)
        for index in range(file.metadata.num_columns)
        if file.metadata.row_group(0).column(index).path_in_schema == "image.bytes"
    )
    assert column.compression == "UNCOMPRESSED"
    assert not column.has_dictionary_page


@pytest.mark.parametrize("key", ["data/000007-a1b2.parquet", "rejected/000007-a1b2.parquet"])
@each_container
def test_a_flipped_bit_in_parquet_data_is_seen(container, key, write_shard):
    path = by_key(write_shard(container))[key]
    content = bytearray(path.read_bytes())
    row_group = pq.ParquetFile(path).metadata.row_group(0)
    column = row_group.column(row_group.num_columns - 1)
    content[column.data_page_offset + column.total_compressed_size // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptFile, match="CRC checksum"):
        read_metadata(path)


@each_container
def test_a_cut_off_parquet_file_is_told_by_name(container, write_shard):
    path = by_key(write_shard(container))["data/000007-a1b2.parquet"]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CorruptFile, match=r"^shard 7: not a whole Parquet file"):
        read_metadata(path, "shard 7")


def test_a_file_that_is_no_result_is_refused(tmp_path, write_shard):
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"image": [b"x"]}), other)
    with pytest.raises(CorruptFile, match="metadata columns"):
        read_metadata(other)
    with pytest.raises(CorruptFile, match="no column image"):
        list(read_samples(by_key(write_shard("files"))["data/000007-a1b2.parquet"]))
    with pytest.raises(FileNotFoundError):
        read_metadata(tmp_path / "none.parquet")
