"""Bringing a job's model to a node: a folder, an S3 prefix, a hub id."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from render_farm.engine.source import LoraFile, ModelSource
from render_farm.errors import InputError, ModelError, NotFound
from render_farm.farm.loaded import LoadTimes
from render_farm.farm.model_files import (
    LocatedLora,
    checked_source,
    locate_lora,
    locate_model,
    locate_pinned,
    pinned_files,
)
from render_farm.farm.models import load_pinned
from render_farm.job.spec import ONLY_MODEL
from render_farm.ledger.receipt import iter_receipts
from render_farm.store.fetch import known_digests
from render_farm.store.open import open_store
from render_farm.views.results import shard_metadata
from render_farm.views.verify import verify_run
from tests.making.jobs import make_job, write_prompts
from tests.making.runs import submit
from tests.models import folders
from tests.servers.moto import MotoServer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.make_sd15(tmp_path_factory.mktemp("models") / "sd15")


@pytest.fixture(scope="module")
def lora(model: Path) -> Path:
    return folders.make_lora(model.with_name("lora.safetensors"), model)


def test_a_folder_is_found_from_any_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    located = locate_model("models/mine", None, "cache")
    assert located.path == located.folder == str(tmp_path / "models" / "mine")


def test_a_model_behind_an_unknown_scheme_is_refused(tmp_path: Path):
    with pytest.raises(ModelError, match=r"model\.path"):
        locate_model("https://models/sd15", None, str(tmp_path))


def test_a_run_renders_with_a_model_from_s3(
    moto_server: MotoServer, s3_env: Callable[[Any], None], tmp_path: Path
):
    s3_env(moto_server)
    moto_server.make_bucket("models-bucket")
    folder = tmp_path / "sd15"
    folders.make_sd15(folder)
    store = open_store("s3://models-bucket/sd15")
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        store.upload(path.relative_to(folder).as_posix(), path)
    job = make_job(
        write_prompts(tmp_path / "p.parquet", 4),
        tmp_path / "run",
        model={"path": "s3://models-bucket/sd15", "engine": "auto"},
        defaults={"steps": 2},
        workers={"batch_size": 2},
    )
    run = submit(job, model_cache=str(tmp_path / "cache"))
    assert run.drive().reason is None
    assert verify_run(run.store, run.record).ok
    (receipt,) = iter_receipts(run.store)
    table = shard_metadata(run.store, receipt)
    assert table is not None
    assert set(table["model"].to_pylist()) == {"s3://models-bucket/sd15"}
    assert set(table["batch_shape"].to_pylist()) == {"2x64x64"}


def test_a_lora_is_a_file_or_the_only_one_of_a_folder_and_gets_an_absolute_path(
    tmp_path: Path, lora: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "loras" / "style"
    folder.mkdir(parents=True)
    file = Path(shutil.copy(lora, folder / "x.safetensors"))
    (folder / "README.md").write_text("read me")
    for path, pinned in (
        (str(file), str(file)),
        ("loras/style/x.safetensors", str(file)),
        ("loras/style", str(folder)),
    ):
        assert locate_lora(path, "cache") == LocatedLora(pinned, str(file))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("loras/none.safetensors", "no such file"),
        ("loras/style.pt", "no .safetensors file"),
        ("./loras/none", "no such file"),
        ("notes.txt", "no .safetensors file"),
        ("empty", "no .safetensors file"),
        ("s3://", "s3://"),
        ("s3://x.safetensors", "s3:"),
        ("https://host/x.safetensors", "https://host"),
    ],
)
def test_what_is_no_lora_file_is_refused_with_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=message) as raised:
        locate_lora(name, "cache")
    assert raised.value.problem.field == "model.loras"


def test_of_an_s3_prefix_only_the_lora_is_fetched_and_of_an_object_that_one(
    moto_server: MotoServer, s3_env: Callable[[Any], None], tmp_path: Path, lora: Path
):
    s3_env(moto_server)
    moto_server.make_bucket("loras-bucket")
    store = open_store("s3://loras-bucket/style")
    store.upload("x.safetensors", lora)
    store.put("optimizer.bin", b"unwanted")
    store.put("x.safetensors.json", b"unwanted")
    store.put("deep/y.safetensors", b"unwanted")
    cache = tmp_path / "cache"
    for path in ("s3://loras-bucket/style", "s3://loras-bucket/style/x.safetensors"):
        located = locate_lora(path, str(cache))
        assert located.path == path
        assert Path(located.file).read_bytes() == lora.read_bytes()
    fetched = Path(located.file).parent
    assert [path for path in cache.iterdir() if path.is_dir() and path.name != "digests"] == [
        fetched
    ]
    assert [path.name for path in fetched.iterdir()] == ["x.safetensors"]
    with pytest.raises(NotFound):
        locate_lora("s3://loras-bucket/style/z.safetensors", str(cache))
    store.put("z.safetensors", b"")
    with pytest.raises(ModelError, match=r"x\.safetensors, z\.safetensors"):
        locate_lora("s3://loras-bucket/style", str(cache))


def test_a_run_renders_with_its_loras_and_refuses_others_in_their_place(
    tmp_path: Path, model: Path, lora: Path
):
    file = shutil.copy(lora, tmp_path / "x.safetensors")

    def pictures(name: str, **section: Any) -> list[str]:
        job = make_job(
            prompts,
            tmp_path / name,
            model={"path": str(model), "engine": "call", **section},
            defaults={"steps": 2},
            workers={"batch_size": 2},
        )
        run = submit(job, model_cache=str(tmp_path / "cache"))
        assert run.drive().reason is None
        (receipt,) = iter_receipts(run.store)
        table = shard_metadata(run.store, receipt)
        assert table is not None
        return table["sha256"].to_pylist()

    prompts = write_prompts(tmp_path / "p.parquet", 2)
    plain = pictures("plain")
    assert pictures("with", loras=[{"path": str(file)}]) != plain
    assert pictures("zero", loras=[{"path": str(file), "weight": 0}]) == plain
    job = make_job(
        prompts,
        tmp_path / "changed",
        model={"path": str(model), "engine": "call", "loras": [{"path": str(file)}]},
        defaults={"steps": 2},
    )
    run = submit(job, model_cache=str(tmp_path / "cache"))
    folders.make_lora(Path(file), model, seed=9)
    with pytest.raises(InputError, match="digest") as raised:
        run.drive()
    assert raised.value.problems[0].field == "model.loras"


def test_what_the_job_says_of_its_model_reaches_the_engine(tmp_path: Path, model: Path, lora: Path):
    job = make_job(
        write_prompts(tmp_path / "p.parquet", 3),
        tmp_path / "run",
        model={
            "path": str(model),
            "engine": "call",
            "loras": [{"path": str(lora), "weight": 0.5}],
            "clip_skip": 1,
            "compile": True,
            "safety_checker": True,
        },
        defaults={"samples": 2},
    )
    cache = str(tmp_path / "cache")
    record = submit(job, cache).record
    located = locate_pinned(record, ONLY_MODEL, cache)
    source = checked_source(record, located, cache)
    assert source == ModelSource(
        str(model),
        loras=(LoraFile(str(lora), 0.5),),
        clip_skip=1,
        safety_checker=True,
        compile=True,
        planned_images=6,
        compile_cache=f"{cache}/compiled",
    )
    never = checked_source(record, located, cache, compiled=False)
    assert never == replace(source, compile=False)


def test_what_it_took_to_load_a_model_is_told_and_logged(
    tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture
):
    job = make_job(
        write_prompts(tmp_path / "p.parquet", 2),
        tmp_path / "run",
        model={"path": str(model), "engine": "call"},
    )
    run = submit(job, str(tmp_path / "cache"))
    caplog.set_level(logging.INFO, "render_farm.farm.models")
    began = time.monotonic()
    loaded = load_pinned(run.record, run.options())
    took_s = time.monotonic() - began
    assert loaded.sampler.info.engine == "call"
    assert isinstance(loaded.times, LoadTimes)
    assert 0 < loaded.times.load_s < loaded.times.total_s <= took_s
    (line,) = (record for record in caplog.records if record.message == "the model is ready")
    assert line.model == str(model)
    assert line.load_s == loaded.times.load_s
    assert (tmp_path / "cache" / "digests").is_dir()


def test_a_rehearsal_loads_nothing(tmp_path: Path):
    run = submit(make_job(write_prompts(tmp_path / "p.parquet", 2), tmp_path / "run"))
    assert load_pinned(run.record, run.options()).times is None


def test_the_weights_are_digested_once_a_node_and_again_when_they_changed(
    tmp_path: Path, model: Path
):
    folder = tmp_path / "mine"
    shutil.copytree(model, folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    cache = tmp_path / "cache"
    cache.mkdir()
    spec = make_job(tmp_path / "p.parquet", tmp_path / "run", model={"path": str(folder)}).model
    located = locate_model(str(folder), None, str(cache))
    digest, _ = pinned_files(spec, located, str(cache))
    # What is noted falsely is believed only by those who do not read the file.
    known_digests(cache).note(weights, "f" * 64)
    assert pinned_files(spec, located, str(cache))[0] != digest
    time.sleep(0.05)  # some ticks of the file system's clock
    weights.touch()
    assert pinned_files(spec, located, str(cache))[0] == digest


def test_a_large_file_that_is_not_what_the_hub_says_is_refused_with_the_blob_to_delete(
    tmp_path: Path, model: Path
):
    snapshot = tmp_path / "models--maker--sd15" / "snapshots" / "451f"
    shutil.copytree(model, snapshot)
    blobs = tmp_path / "models--maker--sd15" / "blobs"
    blobs.mkdir()
    weights = snapshot / "unet" / "diffusion_pytorch_model.safetensors"
    sha256 = known_digests(tmp_path / "cache").of(weights)
    spec = make_job(tmp_path / "p.parquet", tmp_path / "run", model={"path": str(snapshot)}).model
    located = locate_model(str(snapshot), None, "")
    for name in (sha256, "a" * 40, "0" * 64):
        weights.rename(blobs / name)
        weights.symlink_to(blobs / name)
        if name != "0" * 64:
            pinned_files(spec, located, str(tmp_path / "cache"))
            weights.unlink()
            (blobs / name).rename(weights)
    with pytest.raises(ModelError, match="damaged") as raised:
        pinned_files(spec, located, str(tmp_path / "cache"))
    assert raised.value.problem.fix.startswith(f"delete {blobs / name}")
