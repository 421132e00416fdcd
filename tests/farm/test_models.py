"""Bringing a job's model to a node: a folder, an S3 prefix, a hub id."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from render_farm.engine.source import LoraFile, ModelSource
from render_farm.errors import InputError, ModelError, NotFound
from render_farm.farm.models import LocatedLora, locate_lora, locate_model, pinned_source
from render_farm.ledger.receipt import iter_receipts
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
    assert {file.name for file in cache.rglob("*") if file.is_file()} == {
        "x.safetensors",
        Path(located.file).parent.name + ".lock",
    }
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
    record = submit(job).record
    source = pinned_source(record, "cache")
    assert source == ModelSource(
        str(model),
        loras=(LoraFile(str(lora), 0.5),),
        clip_skip=1,
        safety_checker=True,
        compile=True,
        planned_images=6,
        compile_cache="cache/compiled",
    )
    assert pinned_source(record, "cache", compiled=False) == replace(source, compile=False)
