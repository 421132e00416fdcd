"""`render-farm bench engine`: what it says, and what it ends with."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Ended
from tests.models.folders import make_sd15

Farm = Callable[..., Ended]

KEYS = (
    "images_per_s",
    "stock_images_per_s",
    "stock_batch",
    "ratio_to_stock",
    "fraction_of_peak",
    "occupancy",
    "peak_memory_mb",
    "device",
    "dtype",
)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "sd15"
    return make_sd15(folder, variant_fp16=False, safety_checker=False)


def short(folder: Path) -> list[str]:
    options = {"model": folder, "size": "16x16", "steps": 1, "batch": 2, "rows": 2, "rounds": 1}
    options |= {"stock-batch": 2, "compile": "false"}
    return [text for name, value in options.items() for text in (f"--{name}", str(value))]


def test_the_json_has_the_figures_of_every_benchmark_first(farm: Farm, tiny_folder: Path):
    ended = farm("bench", "engine", *short(tiny_folder), "--json")
    assert ended.code == 0
    assert tuple(ended.json)[: len(KEYS)] == KEYS
    assert ended.json["engine"] == "steps"
    assert len(ended.out.strip().splitlines()) == 1


def test_the_table_has_ours_beside_stock_and_mixed_rows_both_gains(farm: Farm, tiny_folder: Path):
    ended = farm("bench", "engine", *short(tiny_folder), "--mixed", "--encode", "jpeg")
    assert ended.code == 0
    for label in ("images/s", "occupancy", "peak memory", "gain from kernels", "scheduling"):
        assert label in ended.out
    assert "2 mixed rows" in ended.out
    assert "round 1 of 1" in ended.err


def test_neither_ray_nor_boto3_is_imported(tiny_folder: Path):
    code = (
        "import sys\n"
        "from render_farm.cli.main import main\n"
        "try:\n    main()\n"
        "except SystemExit as ended:\n    assert not ended.code\n"
        "print(sorted({'ray', 'boto3', 'botocore', 'torch'} & set(sys.modules)))"
    )
    arguments = ["bench", "engine", *short(tiny_folder), "--json"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    figures, modules = done.stdout.strip().splitlines()
    assert json.loads(figures)["images_per_s"] > 0
    assert modules == "['torch']"


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        (["--size", "512"], ["--size"]),
        (["--batch", "0"], ["--batch"]),
        (["--stock-batch", "9999"], ["--stock-batch"]),
        (["--size", "axb", "--batch", "many"], ["--size", "--batch"]),
        (["--model", "/no/such/folder"], ["--model"]),
        (["--model", "/tmp"], ["--model"]),
        (["--steps", "0"], ["arguments"]),
        (["--rows", "0"], ["arguments"]),
        (["--threads", "none"], ["arguments"]),
        (["--dtype", "float8"], ["arguments"]),
        (["--compile", "maybe"], ["arguments"]),
        (["--encode", "gif"], ["arguments"]),
    ],
    ids=" ".join,
)
def test_wrong_options_end_with_2_and_are_named(farm: Farm, options: list[str], fields: list[str]):
    ended = farm("bench", "engine", *options, "--json")
    assert ended.code == 2
    assert ended.fields == fields
    assert all(error["allowed"] and error["fix"] for error in ended.json["errors"])


def test_a_size_that_the_model_cannot_make_is_refused(farm: Farm, tiny_folder: Path):
    ended = farm("bench", "engine", *short(tiny_folder), "--size", "20x16", "--json")
    assert (ended.code, ended.fields) == (2, ["--size"])
    assert "multiples of 8" in ended.json["errors"][0]["allowed"]
