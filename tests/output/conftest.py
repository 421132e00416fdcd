"""A shard of four rows, two samples each: rows 100 to 103, of which 102 is quarantined."""

from __future__ import annotations

import datetime as dt
import decimal
import hashlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from render_farm.output.codecs import as_image, encode, luma
from render_farm.output.layout import OutputFile, ShardLayout
from render_farm.output.metadata import SampleRecord
from render_farm.output.shard_files import ShardWriter

PROMPTS = {
    100: "a red cube",
    101: 'naïve 絵 🎨 \x00\x1b[31m\n\u2028"quoted" \\ end',
    102: "",
    103: "",
}


def pixels_of(row: int, sample: int) -> np.ndarray:
    return np.random.default_rng([row, sample]).integers(0, 256, (16, 24, 3), dtype=np.uint8)


def image_of(row: int, sample: int) -> Image.Image:
    return as_image(pixels_of(row, sample))


def sample_record(row: int, sample: int, status: str = "done") -> SampleRecord:
    mean, std = luma(image_of(row, sample))
    return SampleRecord(
        row=row,
        sample=sample,
        status=status,
        id=f"id-{row}",
        prompt=PROMPTS.get(row, "a prompt"),
        negative_prompt="",
        seed=2**63 - 1 - sample,
        width=24,
        height=16,
        steps=4,
        guidance_scale=7.5,
        scheduler="model",
        model="tiny",
        dtype="float32",
        mean_luma=mean,
        std_luma=std,
        flags=("dark", "flat") if sample else (),
        cut_tokens=0,
        worker="w",
        device="cpu",
        batch_shape="4x24x16",
        render_s=0.25,
        created_at=dt.datetime(2026, 11, 22, 12, 0, 0, 5, tzinfo=dt.UTC),
        render_farm_version="0.1.0",
    )


def carried_table() -> pa.Table:
    return pa.table(
        {
            "label": pa.array([1, 2, 3, None], pa.uint16()),
            "seed": pa.array([None, "x", "y", "z"], pa.large_string()),
            "input_seed": pa.array([0.5, float("nan"), float("inf"), None], pa.float32()),
            "boxes": pa.array(
                [
                    [{"name": "a", "xy": [0.1, 0.2]}],
                    [],
                    None,
                    [{"name": None, "xy": None}, {"name": "é", "xy": [float("nan")]}],
                ],
                pa.list_(pa.struct([("name", pa.string()), ("xy", pa.list_(pa.float64()))])),
            ),
            "blob": pa.array([b"\x00\xff", b"", None, b"x"], pa.binary()),
            "at": pa.array(
                [1, None, 3, 1_700_000_000_123_456_789], pa.timestamp("ns", "Asia/Tokyo")
            ),
            "price": pa.array([decimal.Decimal("1.10"), None, None, decimal.Decimal("-3.00")]),
            "kind": pa.array(["u", "v", "u", None]).dictionary_encode(),
            "tags": pa.array(
                [[("k", 1)], [], None, [("a", None)]], pa.map_(pa.string(), pa.int8())
            ),
        }
    )


@pytest.fixture
def write_shard(tmp_path: Path) -> Callable[..., list[OutputFile]]:
    """Writes the shard of the module's docstring; `order` shuffles the additions."""

    def write(
        container: str, image_format: str = "png", *, order: int = 0, name: str = "scratch"
    ) -> list[OutputFile]:
        layout = ShardLayout(7, "a1b2", 100, 4, 2, container, image_format)
        writer = ShardWriter(tmp_path / name / str(order), layout)
        done = [(100, 0), (100, 1), (101, 0), (101, 1), (102, 1), (103, 1)]
        steps = [
            lambda row=row, sample=sample: writer.add(
                sample_record(row, sample), encode(image_of(row, sample), image_format, 90)
            )
            for row, sample in done
        ]
        steps.append(lambda: writer.reject(sample_record(103, 0, "filtered"), b"dropped"))
        for sample, error in ((1, "later"), (0, "first")):
            bad = SampleRecord(
                row=102, sample=sample, status="quarantined", error_type=error, width="wide"
            )
            steps.append(lambda bad=bad: writer.reject(bad))
        for index in np.random.default_rng(order).permutation(len(steps)):
            steps[index]()
        return writer.close(carried_table())

    return write


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """Threads take turns a thousand times as often as they do of themselves."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(interval)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
