"""From a job to a run: everything is checked before anything is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from render_farm.errors import InputError
from render_farm.farm.opening import new_run_record, open_run
from render_farm.farm.prepare import Prepared, prepare
from render_farm.job.spec import ONLY_MODEL, LoraSpec
from render_farm.ledger import keys
from render_farm.ledger.record import RunRecord, compare
from render_farm.store.open import open_store
from tests.making.jobs import make_job, write_prompts
from tests.making.runs import submit
from tests.models import folders
from tests.servers.racy import RacyServer


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return write_prompts(tmp_path / "p.parquet")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "sd15"
    folders.make_sd15(path)
    return path


def problems(error: pytest.ExceptionInfo[InputError]) -> dict[str, str]:
    return {problem.field: problem.allowed for problem in error.value.problems}


def test_paths_become_absolute_so_that_any_machine_means_the_same(
    prompts: Path, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    job = make_job(
        "p.parquet", "run", model={"path": str(model), "engine": "auto"}, defaults={"width": 64}
    )
    prepared = prepare(job, "cache")
    assert prepared.job.output.uri == str(tmp_path / "run")
    assert prepared.job.prompts.path == str(tmp_path / "p.parquet")
    assert prepared.dataset.root == str(tmp_path)


def test_sizes_are_held_against_the_models_factor(prompts: Path, tmp_path: Path, model: Path):
    job = make_job(
        prompts,
        tmp_path / "run",
        model={"path": str(model), "engine": "auto"},
        defaults={"width": 65, "height": 60},
    )
    with pytest.raises(InputError) as error:
        prepare(job, "cache")
    assert problems(error).keys() == {"defaults.width", "defaults.height"}
    assert "multiples of 8" in problems(error)["defaults.width"]


def test_steps_and_schedulers_are_held_against_the_model(
    prompts: Path, tmp_path: Path, model: Path
):
    for defaults, field in (
        ({"scheduler": "lcm", "steps": 51}, "defaults.steps"),
        ({"scheduler": "quick"}, "defaults.scheduler"),
    ):
        job = make_job(
            prompts,
            tmp_path / "run",
            model={"path": str(model), "engine": "auto"},
            defaults=defaults,
        )
        with pytest.raises(InputError) as error:
            prepare(job, "cache")
        assert problems(error).keys() == {field}


def test_the_model_is_pinned_by_its_content(prompts: Path, tmp_path: Path, model: Path):
    sections: dict[str, Any] = {"model": {"path": str(model), "engine": "auto"}}
    digest = prepare(make_job(prompts, tmp_path / "run", **sections), "c").models[ONLY_MODEL].digest
    assert digest is not None
    assert len(digest) == 64


def test_another_model_in_the_same_place_is_refused(prompts: Path, tmp_path: Path):
    model = tmp_path / "model"
    folders.make_sd15(model)
    job = make_job(prompts, tmp_path / "run", model={"path": str(model), "engine": "auto"})
    run = submit(job)
    config = model / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("0.012", "0.013"))
    with pytest.raises(InputError) as error:
        submit(job)
    assert problems(error).keys() == {"model (digest)"}
    with pytest.raises(InputError, match="digest"):
        run.drive()


def test_a_store_without_atomic_create_is_refused_and_left_as_it_was(
    prompts: Path, s3_env: Callable[[Any], None]
):
    with RacyServer() as server:
        s3_env(server)
        server.make_bucket("racy-bucket")
        job = make_job(prompts, "s3://racy-bucket/run")
        prepared = prepare(job, "cache")
        with pytest.raises(InputError) as error:
            open_run(prepared, allow_no_cas=False)
        assert "--allow-no-cas" in error.value.problems[0].fix
        store = open_store("s3://racy-bucket/run")
        assert list(store.list("")) == []
        open_run(prepared, allow_no_cas=True)
        assert [info.key for info in store.list("")] == [keys.RUN]


def test_the_probe_leaves_nothing_but_the_run(prompts: Path, tmp_path: Path):
    run = submit(make_job(prompts, tmp_path / "run"))
    assert [info.key for info in run.store.list("")] == [keys.RUN]


def test_what_is_wrong_in_several_places_is_told_at_once(tmp_path: Path):
    job = make_job(
        tmp_path / "none.parquet",
        "gs://bucket/run",
        model={"path": str(tmp_path / "no-model"), "engine": "call"},
    )
    with pytest.raises(InputError) as error:
        prepare(job, "cache")
    assert problems(error).keys() == {"output.uri", "prompts.path", "model.path"}


@pytest.fixture(scope="module")
def lora(model: Path) -> Path:
    return folders.make_lora(model.with_name("lora.safetensors"), model)


def test_what_the_model_cannot_do_is_told_at_once(
    prompts: Path, tmp_path: Path, model: Path, lora: Path
):
    checkpoint = model / "unet" / "diffusion_pytorch_model.safetensors"
    job = make_job(
        prompts,
        tmp_path / "run",
        model={
            "path": str(model),
            "engine": "steps",
            "offload": "model",
            "clip_skip": 2,
            "loras": [
                {"path": str(lora)},
                {"path": str(checkpoint)},
                {"path": str(tmp_path / "none.safetensors")},
            ],
        },
        defaults={"width": 65},
    )
    with pytest.raises(InputError) as error:
        prepare(job, "cache")
    assert sorted(problem.field for problem in error.value.problems) == [
        "defaults.width",
        "model.clip_skip",
        "model.engine",
        "model.loras",
        "model.loras",
    ]


def test_a_safety_checker_that_is_not_there_is_refused(prompts: Path, tmp_path: Path, model: Path):
    bare = folders.make_without(tmp_path / "bare", model, "safety_checker")
    section = {"path": str(bare), "engine": "auto", "safety_checker": True}
    with pytest.raises(InputError) as error:
        prepare(make_job(prompts, tmp_path / "run", model=section), "cache")
    assert problems(error).keys() == {"model.safety_checker"}
    prepare(make_job(prompts, tmp_path / "run", model=section | {"safety_checker": False}), "c")


def test_loras_are_pinned_by_absolute_path_weight_and_content(
    prompts: Path, tmp_path: Path, model: Path, lora: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(lora.parent)

    def pinned(*loras: dict[str, Any], **section: Any) -> Prepared:
        section |= {"path": str(model), "engine": "auto", "loras": list(loras)}
        return prepare(make_job(prompts, tmp_path / "run", model=section), "cache")

    found = pinned({"path": lora.name}, {"path": lora.name, "weight": 0.5})
    assert found.job.model.loras == [
        LoraSpec(path=str(lora)),
        LoraSpec(path=str(lora), weight=0.5),
    ]
    again = pinned({"path": str(lora), "weight": 1}, {"path": lora.name, "weight": 0.5})
    assert compare(new_run_record(found), new_run_record(again)) == []
    digests = {
        found.models[ONLY_MODEL].digest,
        pinned().models[ONLY_MODEL].digest,
        pinned({"path": lora.name}).models[ONLY_MODEL].digest,
        pinned(safety_checker=True).models[ONLY_MODEL].digest,
    }
    assert len(digests) == 4
    differences = compare(new_run_record(found), new_run_record(pinned({"path": lora.name})))
    assert {problem.field for problem in differences} == {"model.loras", "model (digest)"}


def test_a_run_from_before_these_keys_is_the_same_run(prompts: Path, tmp_path: Path, model: Path):
    section = {"path": str(model), "engine": "auto"}
    wanted = new_run_record(prepare(make_job(prompts, tmp_path / "run", model=section), "cache"))
    document = wanted.model_dump(mode="json")
    for key in ("loras", "clip_skip", "compile", "safety_checker"):
        del document["job"]["model"][key]
    old = RunRecord.model_validate_json(json.dumps(document))
    assert compare(old, wanted) == []
    changed = new_run_record(
        prepare(make_job(prompts, tmp_path / "run", model={**section, "clip_skip": 1}), "cache")
    )
    assert [problem.field for problem in compare(old, changed)] == ["model.clip_skip"]


@pytest.mark.parametrize(
    ("offload", "gpus", "field"),
    [
        ("none", 2, "workers.gpus"),
        ("model", 8, "workers.gpus"),
        ("balanced", 1, "model.offload"),
        ("balanced", "auto", "model.offload"),
    ],
)
def test_several_gpus_a_worker_are_for_models_that_are_spread_and_the_other_way_round(
    prompts: Path, tmp_path: Path, model: Path, offload: str, gpus: object, field: str
):
    how = {"path": str(model), "engine": "auto", "offload": offload}
    job = make_job(prompts, tmp_path / "run", model=how, workers={"gpus": gpus})
    with pytest.raises(InputError) as error:
        prepare(job, "cache")
    assert [problem.field for problem in error.value.problems] == [field]


def test_a_model_that_is_spread_is_called_and_takes_no_loras(
    prompts: Path, tmp_path: Path, model: Path, lora: Path
):
    how: dict[str, object] = {"path": str(model), "engine": "auto", "offload": "balanced"}
    several = {"gpus": 2}
    prepare(make_job(prompts, tmp_path / "run", model=how, workers=several), "cache")
    for key, value in (("loras", [{"path": str(lora)}]), ("engine", "steps")):
        job = make_job(prompts, tmp_path / "run", model=how | {key: value}, workers=several)
        with pytest.raises(InputError) as error:
            prepare(job, "cache")
        assert [problem.field for problem in error.value.problems] == [f"model.{key}"]
