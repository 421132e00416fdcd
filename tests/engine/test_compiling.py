"""Compiling happens where it is asked for or pays, and says what is missing where it cannot."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from render_farm.engine.compiling import (
    CACHE_VARIABLE,
    WORTHWHILE_ON_ACCELERATOR,
    WORTHWHILE_ON_CPU,
    is_compiled,
)
from render_farm.engine.guard import attempt
from render_farm.engine.source import ModelSource
from render_farm.errors import ModelError
from tests.engine.conftest import needs_compiler

CPU = torch.device("cpu")
GPU = torch.device("cuda")

ASKED_WITHOUT_A_COMPILER = """
import torch
from render_farm.engine.compiling import is_compiled
from render_farm.engine.source import ModelSource
from render_farm.errors import ModelError

cpu = torch.device("cpu")
assert is_compiled(ModelSource("", compile="auto", planned_images=10**6), cpu) is False
try:
    is_compiled(ModelSource("", compile=True), cpu)
except ModelError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("device", "planned"),
    [
        (CPU, None),
        (CPU, 0),
        (CPU, WORTHWHILE_ON_CPU - 1),
        (GPU, None),
        (GPU, WORTHWHILE_ON_ACCELERATOR - 1),
    ],
)
def test_a_short_job_is_not_compiled_unless_it_asks(device, planned):
    assert not is_compiled(ModelSource("", compile="auto", planned_images=planned), device)


def test_false_is_no_whatever_the_length():
    assert not is_compiled(ModelSource("", compile=False, planned_images=10**9), CPU)


@needs_compiler
@pytest.mark.parametrize(
    "source",
    [
        ModelSource("", compile=True),
        ModelSource("", compile="auto", planned_images=WORTHWHILE_ON_CPU),
    ],
    ids=["asked for", "long"],
)
def test_a_job_that_is_long_or_asks_is_compiled_where_there_is_a_compiler(source):
    assert is_compiled(source, CPU)


@needs_compiler
def test_what_compiling_makes_is_kept_where_the_source_says(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, "")
    monkeypatch.delenv(CACHE_VARIABLE)
    folder = tmp_path / "a" / "cache"
    assert is_compiled(ModelSource("", compile=True, compile_cache=str(folder)), CPU)
    assert os.environ[CACHE_VARIABLE] == str(folder)
    assert folder.is_dir()


@needs_compiler
def test_a_cache_that_is_set_already_stays(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "set"))
    is_compiled(ModelSource("", compile=True, compile_cache=str(tmp_path / "other")), CPU)
    assert os.environ[CACHE_VARIABLE] == str(tmp_path / "set")


def test_a_job_that_is_not_compiled_makes_no_cache(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, "")
    monkeypatch.delenv(CACHE_VARIABLE)
    folder = tmp_path / "cache"
    is_compiled(ModelSource("", compile="auto", compile_cache=str(folder)), CPU)
    assert not folder.exists()
    assert CACHE_VARIABLE not in os.environ


def test_without_a_compiler_auto_goes_on_and_true_says_what_to_install(tmp_path):
    environment = {**os.environ, "PATH": str(tmp_path), CACHE_VARIABLE: str(tmp_path / "cache")}
    for compiler in ("CXX", "CC"):
        environment.pop(compiler, None)
    child = subprocess.run(
        [sys.executable, "-c", ASKED_WITHOUT_A_COMPILER],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    assert "model.compile: true, and compiling fails here" in child.stdout
    assert "g++" in child.stdout


@needs_compiler
def test_more_sizes_are_compiled_for_than_torch_would():
    assert is_compiled(ModelSource("", compile=True), CPU)
    compiled = torch.compile(doubled, dynamic=False, backend="eager", fullgraph=True)
    for size in range(2, 14):
        assert compiled(torch.ones(size)).shape == (size,)


def doubled(numbers: torch.Tensor) -> torch.Tensor:
    return numbers * 2


def test_a_failing_compiler_is_the_models_fault_and_no_rows():
    def full_disk(*_: object) -> object:
        raise OSError(28, "No space left on device")

    compiled = torch.compile(lambda numbers: numbers * 3, backend=full_disk)
    with pytest.raises(ModelError, match="No space left on device") as raised:
        attempt(lambda: compiled(torch.ones(3)), CPU, 4)
    assert raised.value.problem.field == "model.compile"
