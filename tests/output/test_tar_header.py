"""The headers of tar members are those that Python's own `tarfile` writes."""

from __future__ import annotations

import io
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from render_farm.output.layout import StoredSample
from render_farm.output.tar_header import member_header
from render_farm.output.webdataset import write_tar

NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=120)


def tarfile_header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.USTAR_FORMAT)


@given(name=NAMES, size=st.integers(0, 8**11 - 1))
@example("000000000_00.png", 0)
@example("a" * 100, 8**11 - 1)
@example("a" * 99 + "/" + "b" * 99, 1)
@example("é" * 50, 511)
def test_a_header_is_the_one_of_tarfile(name, size):
    try:
        expected = tarfile_header(name, size)
    except ValueError:
        with pytest.raises(ValueError, match="name is too long"):
            member_header(name, size)
    else:
        assert member_header(name, size) == expected


@pytest.mark.parametrize("size", [-1, 8**11])
def test_a_size_that_ustar_cannot_hold_is_refused(size):
    with pytest.raises(ValueError, match="overflow"):
        member_header("a.png", size)


@given(st.lists(st.tuples(st.integers(0, 1100) | st.just(512), st.text(max_size=9)), max_size=9))
@example([(1024, "")] * 7)
def test_a_tar_is_byte_for_byte_the_one_of_tarfile(contents):
    samples = [
        StoredSample(f"{index:09d}_00", bytes([index]) * size, {"prompt": prompt})
        for index, (size, prompt) in enumerate(
            (size, prompt.encode("utf-8", "replace").decode()) for size, prompt in contents
        )
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.tar"
        write_tar(path, samples, "png")
        written = path.read_bytes()
    with tarfile.open(fileobj=io.BytesIO(written)) as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]
    assert [data for name, data in members if name.endswith(".png")] == [s.image for s in samples]
    expected = io.BytesIO()
    with tarfile.open(fileobj=expected, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    assert written == expected.getvalue()
