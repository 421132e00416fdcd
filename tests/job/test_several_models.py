"""Jobs with several models: what they may say, and which row gets which model."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from render_farm.errors import InputError, Problem, RowError
from render_farm.job.load import override_job, parse_job
from render_farm.job.request import RenderRequest, Row
from render_farm.job.resolve import carried_columns, map_columns, resolve_row
from render_farm.job.spec import ONLY_MODEL, JobSpec, ModelSpec
from tests.making.jobs import job_document

TWO: dict[str, Any] = {"sd1.5": {"path": "a/sd"}, "xl": {"path": "a/xl"}}


def job(**sections: Any) -> JobSpec:
    return parse_job(job_document("p.parquet", "out", **({"models": TWO} | sections)))


def problems(document: dict[str, Any]) -> dict[str, Problem]:
    """The mistakes of a job by field, each told once."""
    with pytest.raises(InputError) as caught:
        parse_job(document)
    found = {problem.field: problem for problem in caught.value.problems}
    assert len(found) == len(caught.value.problems)
    return found


def mistakes(**sections: Any) -> dict[str, Problem]:
    return problems(job_document("p.parquet", "out", **({"models": TWO} | sections)))


def test_each_of_several_models_has_the_keys_and_defaults_of_one():
    settings = {"path": "x", "dtype": "bfloat16", "loras": [{"path": "l", "weight": 0.5}]}
    several = job(models={"plain": {"path": "x"}, "A-b_c.9": settings})
    alone = parse_job(job_document("p", "out", model={"engine": "auto", **settings}))
    assert several.every_model == {"plain": ModelSpec(path="x"), "A-b_c.9": alone.model}
    assert alone.every_model == {ONLY_MODEL: alone.model}


def test_a_job_of_one_model_is_written_as_it_was_before_there_could_be_several():
    written = parse_job(job_document("p", "out")).model_dump(mode="json")
    assert "models" not in written
    assert "model" not in written["defaults"]
    assert list(written)[:4] == ["name", "prompts", "model", "defaults"]


def test_a_job_of_several_models_survives_being_written_and_read_again():
    several = job(defaults={"model": "xl"}, prompts={"columns": {"model": "checkpoint"}})
    assert JobSpec.model_validate_json(several.model_dump_json()) == several
    assert "model" not in several.model_dump()


def test_a_job_says_either_model_or_models():
    both = job_document("p", "out") | {"models": TWO}
    assert problems(both).keys() == {"model"}
    assert "either" in problems(both)["model"].allowed
    neither = job_document("p", "out", models=None)
    assert (problems(neither)["model"].value, len(problems(neither))) == ("missing", 1)
    assert "models" in problems(neither)["model"].allowed


def test_there_are_1_to_32_models():
    assert len(job(models={f"m{n}": {"path": "x"} for n in range(32)}).every_model) == 32
    for models in ({}, {f"m{n}": {"path": "x"} for n in range(33)}):
        problem = mistakes(models=models)["models"]
        assert problem.allowed == "1 to 32 names, each with the keys of model"
    assert mistakes(models=[{"path": "x"}]).keys() == {"models"}


@pytest.mark.parametrize("name", ["", "a b", "a/b", "é", "a\n", "x" * 65, "a@b"])
def test_names_of_models_are_plain(name: str):
    (problem,) = mistakes(models={"fine": {"path": "x"}, name: {"path": "x"}}).values()
    assert problem.field == f"models.{problem.value}"
    assert problem.value.startswith(repr(name)[:20])
    assert "64 letters, digits, dots, hyphens and underscores" in problem.allowed


def test_all_mistakes_in_models_are_told_at_once_with_their_places():
    found = mistakes(
        models={
            "a": {"path": "x", "dtyp": "auto"},
            "b": {"dtype": "fp16"},
            "c": {"path": "x", "loras": [{"weight": 11}]},
            "d": "a/path",
            "e f": {"path": "x"},
        },
        defaults={"model": "z", "steps": 0},
        seed=-1,
    )
    assert found.keys() == {
        "models.a.dtyp",
        "models.b.path",
        "models.b.dtype",
        "models.c.loras[0].path",
        "models.c.loras[0].weight",
        "models.d",
        "models.'e f'",
        "defaults.model",
        "defaults.steps",
        "seed",
    }
    assert found["models.a.dtyp"].fix == "did you mean dtype?"
    assert found["models.b.dtype"].allowed == "auto, float16, bfloat16 or float32"
    assert found["models.d"].fix.startswith("write below models.d: the keys path")


def test_the_default_is_one_of_the_models():
    assert job(defaults={"model": "sd1.5"}).defaults.model == "sd1.5"
    problem = mistakes(defaults={"model": "sd15"})["defaults.model"]
    assert (problem.value, problem.allowed) == ("'sd15'", "sd1.5, xl")
    assert problem.fix == "did you mean sd1.5?"
    assert mistakes(defaults={"model": 15})["defaults.model"].fix.startswith("write defaults.model")


def test_choosing_means_nothing_beside_one_model():
    document = job_document(
        "p", "out", defaults={"model": "xl"}, prompts={"columns": {"model": "checkpoint"}}
    )
    found = problems(document)
    assert found.keys() == {"defaults.model", "prompts.columns.model"}
    assert all(problem.allowed == "nothing beside model" for problem in found.values())


def test_models_are_rehearsed_all_or_none():
    rehearsed = {"path": "x", "engine": "rehearsal"}
    assert job(models={"a": rehearsed, "b": rehearsed})
    found = mistakes(models={"a": {"path": "x"}, "b": rehearsed})
    assert found.keys() == {"models.a.engine"}
    assert "for all models or for none" in found["models.a.engine"].allowed


def test_models_are_set_by_dotted_keys_though_their_names_have_dots():
    changed = override_job(
        job(), ["models.sd1.5.dtype=float16", "models.xl.path=b/xl", "models.new.path=c"]
    )
    assert changed.every_model == {
        "sd1.5": ModelSpec(path="a/sd", dtype="float16"),
        "xl": ModelSpec(path="b/xl"),
        "new": ModelSpec(path="c"),
    }
    with pytest.raises(InputError, match=r"models\.sd1\.5\.dtyp: unknown key"):
        override_job(job(), ["models.sd1.5.dtyp=float16"])


# --- rows ---

SCHEMA = pa.schema([("prompt", pa.string()), ("model", pa.string()), ("label", pa.int64())])


def resolved(model: object, **sections: Any) -> RenderRequest:
    several = job(**sections)
    row = Row(7, "a.parquet", 7, {"prompt": "p", "model": model, "label": 1})
    return resolve_row(row, several, map_columns(several, SCHEMA))[0]


def test_a_row_gets_the_model_of_its_column_or_the_default_for_a_null():
    assert resolved("xl").model == "xl"
    assert resolved("xl", defaults={"model": "sd1.5"}).model == "xl"
    assert resolved(None, defaults={"model": "sd1.5"}).model == "sd1.5"
    off = {"defaults": {"model": "sd1.5"}, "prompts": {"columns": {"model": None}}}
    assert resolved("xl", **off).model == "sd1.5"


@pytest.mark.parametrize(
    "value", ["sd15", "XL", "", " xl", UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no text"), None]
)
def test_a_row_that_names_no_model_is_refused_with_their_names(value: object):
    with pytest.raises(RowError, match=r"allowed: sd1\.5, xl") as caught:
        resolved(value)
    assert caught.value.error_type == "unknown_model"


def test_seeds_do_not_depend_on_the_model():
    assert resolved("xl").seed == resolved("sd1.5").seed
    alone = parse_job(job_document("p", "out"))
    row = Row(7, "a.parquet", 7, {"prompt": "p"})
    (request,) = resolve_row(row, alone, {"prompt": "prompt"})
    assert (request.model, request.seed) == (ONLY_MODEL, resolved("xl").seed)


def test_any_column_may_name_the_model_and_is_carried_all_the_same():
    mapped = job(prompts={"columns": {"model": "checkpoint"}})
    schema = pa.schema([("prompt", pa.string()), ("checkpoint", pa.string())])
    mapping = map_columns(mapped, schema)
    assert mapping == {"prompt": "prompt", "model": "checkpoint"}
    assert carried_columns(schema, mapping) == ["checkpoint"]
    assert carried_columns(SCHEMA, map_columns(job(), SCHEMA)) == ["model", "label"]


def test_a_column_called_model_means_nothing_beside_one_model():
    alone = parse_job(job_document("p", "out"))
    mapping = map_columns(alone, SCHEMA)
    assert mapping == {"prompt": "prompt"}
    assert carried_columns(SCHEMA, mapping) == ["model", "label"]


def test_a_job_in_which_nothing_chooses_between_the_models_is_refused():
    bare = pa.schema([("prompt", pa.string())])
    for several in (job(), job(prompts={"columns": {"model": None}})):
        with pytest.raises(InputError) as caught:
            map_columns(several, bare)
        (problem,) = caught.value.problems
        assert (problem.field, problem.allowed) == ("defaults.model", "sd1.5, xl")
    assert map_columns(job(defaults={"model": "xl"}), bare) == {"prompt": "prompt"}
