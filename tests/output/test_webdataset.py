"""Reading tar files that something happened to."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from render_farm.output.corrupt import CorruptFile
from render_farm.output.webdataset import read_samples


class Pipe(io.RawIOBase):
    """A stream that cannot seek and gives a few bytes at a time, as a socket does."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self._data.read(min(size, 1000))


@pytest.fixture
def tar(write_shard) -> bytes:
    return Path(write_shard("webdataset")[0].path).read_bytes()


def keys(data: bytes) -> list[str]:
    return [sample.key for sample in read_samples(Pipe(data), "t.tar")]


def test_a_whole_tar_is_read_from_a_pipe(tar):
    assert len(keys(tar)) == 5


def test_a_tar_cut_anywhere_is_told_by_name(tar):
    end = len(tar.rstrip(b"\0"))
    end += -end % 512 + 512  # with one block of the two that end an archive
    for size in [*range(0, end + 1, 512), *range(0, end, 331)]:
        with pytest.raises(CorruptFile, match=r"^t\.tar"):
            keys(tar[:size])


def test_a_broken_header_is_not_taken_for_the_end(tar):
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        offset = archive.getmembers()[3].offset
    broken = bytearray(tar)
    broken[offset + 5] ^= 1
    with pytest.raises(CorruptFile, match="broken tar header"):
        keys(bytes(broken))


def test_bytes_after_the_end_are_refused(tar):
    with pytest.raises(CorruptFile, match="after the end"):
        keys(tar + b"more")


@pytest.mark.parametrize(
    "names",
    [
        ["a.png"],
        ["a.png", "a.json"],
        ["a.png", "a.txt", "a.json"],
        ["a.png", "b.json", "a.txt"],
        ["a.gif", "a.json", "a.txt"],
        ["a.png", "a.json", "a.txt"],
    ],
)
def test_members_that_are_no_sample_are_refused(names):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(CorruptFile, match=r"not an image, its \.json|not JSON"):
        keys(buffer.getvalue())


def test_a_json_of_another_sample_is_refused(tar):
    swapped = tar.replace(b'"key":"000000100_01"', b'"key":"000000100_09"')
    with pytest.raises(CorruptFile, match="do not belong together"):
        keys(swapped)
