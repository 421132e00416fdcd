"""Job files: what is right loads as it stands, and every mistake is named so that it helps."""

from __future__ import annotations

import copy
import os
import threading
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from render_farm.errors import InputError, Problem
from render_farm.job.job_text import MAX_JOB_FILE_BYTES
from render_farm.job.load import load_job, override_job, parse_job
from render_farm.job.spec import RequestField

SMALLEST = """\
name: small
prompts: {path: prompts.parquet}
model: {path: some/model}
output: {uri: out}
"""

DESIGN = """\
name: scenes
prompts:
  path: s3://datasets/prompts/          # file, folder or glob of Parquet; local or s3://
  columns: {prompt: caption, id: key}   # request field: column
  limit: 1000                           # optional
model:
  path: stable-diffusion-v1-5/stable-diffusion-v1-5
  revision: null
  dtype: auto
  engine: auto
defaults:
  negative_prompt: ""
  width: 512
  height: 512
  steps: 50
  guidance_scale: 7.5
  scheduler: model
  samples: 1
seed: 0
output:
  uri: s3://renders/scenes
  container: webdataset
  image: png
  quality: 95
shards: {rows: 256}
workers: {count: auto, gpus: auto, cpus: 1, batch_size: auto}
limits: {attempts: 3, max_quarantined: 0.05}
"""

PYDANTIC_JARGON = ("constrained", "literal[", "function-", "[key]", "nullable", "union", "pydantic")


def document(**changes: Any) -> dict[str, Any]:
    """The smallest job with dotted keys set (``__`` for the dot)."""
    job = yaml.safe_load(SMALLEST)
    for path, value in changes.items():
        *sections, key = path.split("__")
        section = job
        for name in sections:
            section = section.setdefault(name, {})
        section[key] = value
    return job


def problems_of(job: dict[str, Any]) -> list[Problem]:
    with pytest.raises(InputError) as caught:
        parse_job(job)
    return list(caught.value.problems)


def file_problems(path: Path, text: str | bytes, *overrides: str) -> list[Problem]:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as caught:
        load_job(path, overrides)
    return list(caught.value.problems)


def load_text(tmp_path: Path, text: str, *overrides: str) -> Any:
    path = tmp_path / "job.yaml"
    path.write_bytes(text.encode())
    return load_job(path, overrides)


LATER = {
    "offload": "none",
    "loras": [],
    "clip_skip": None,
    "compile": "auto",
    "safety_checker": False,
}
"""Keys of the section `model` that the design only names, with what they mean by default."""


def test_the_job_file_of_the_design_loads_with_the_values_it_states(tmp_path: Path) -> None:
    job = load_text(tmp_path, DESIGN)
    stated = yaml.safe_load(DESIGN)
    dumped = job.model_dump()
    # Later keys, with what they mean by default.
    assert {key: dumped["model"].pop(key) for key in LATER} == LATER
    assert dumped["limits"].pop("on_flagged") == "keep"
    assert dumped["limits"].pop("stalled_after_s") == "auto"
    assert dumped["workers"].pop("resources") == {}
    assert dumped["workers"].pop("open_shards") == "auto"
    assert dumped == stated


def test_the_defaults_are_those_of_the_design(tmp_path: Path) -> None:
    job = load_text(tmp_path, SMALLEST).model_dump()
    expected = yaml.safe_load(DESIGN)
    expected["name"] = "small"
    expected["prompts"] = {"path": "prompts.parquet", "columns": {}, "limit": None}
    expected["model"] |= {"path": "some/model"} | LATER
    expected["limits"] |= {"on_flagged": "keep", "stalled_after_s": "auto"}
    expected["workers"] |= {"resources": {}, "open_shards": "auto"}
    expected["output"]["uri"] = "out"
    assert job == expected


def test_a_job_cannot_be_changed_once_it_is_made() -> None:
    job = parse_job(document())
    with pytest.raises(ValueError, match="frozen"):
        job.seed = 1  # type: ignore[misc]


def test_a_job_survives_being_written_and_read_again() -> None:
    job = parse_job(document(prompts__columns={"id": None, "prompt": "caption"}, seed=2**63 - 1))
    assert type(job).model_validate_json(job.model_dump_json()) == job


# --- what is wrong: (changes, field, value, in allowed, in fix) ---

MISTAKES: dict[str, tuple[dict[str, Any], str, str, str, str]] = {
    "unknown key at the top": ({"sead": 1}, "sead", "unknown key", "seed", "did you mean seed?"),
    "unknown section": (
        {"worker": {"count": 1}},
        "worker",
        "unknown key",
        "workers",
        "did you mean workers?",
    ),
    "unknown key like nothing": ({"xyzzy": 1}, "xyzzy", "unknown key", "prompts", "remove xyzzy"),
    "unknown key in prompts": (
        {"prompts__colums": {}},
        "prompts.colums",
        "unknown key",
        "columns, limit, path",
        "did you mean columns?",
    ),
    "unknown key in model": (
        {"model__dtyp": "auto"},
        "model.dtyp",
        "unknown key",
        "dtype",
        "did you mean dtype?",
    ),
    "unknown key in defaults": (
        {"defaults__guidance": 1},
        "defaults.guidance",
        "unknown key",
        "guidance_scale",
        "did you mean guidance_scale?",
    ),
    "unknown key in output": (
        {"output__url": "x"},
        "output.url",
        "unknown key",
        "uri",
        "did you mean uri?",
    ),
    "unknown key in shards": (
        {"shards__row": 4},
        "shards.row",
        "unknown key",
        "rows",
        "did you mean rows?",
    ),
    "unknown key in workers": (
        {"workers__batchsize": 4},
        "workers.batchsize",
        "unknown key",
        "batch_size",
        "did you mean batch_size?",
    ),
    "unknown key in limits": (
        {"limits__max_quarantine": 0},
        "limits.max_quarantine",
        "unknown key",
        "max_quarantined",
        "did you mean max_quarantined?",
    ),
    "unknown request field": (
        {"prompts__columns": {"promt": "caption"}},
        "prompts.columns.promt",
        "unknown request field",
        "prompt, id, negative_prompt, seed",
        "did you mean prompt?",
    ),
    "request field that cannot come from a column": (
        {"prompts__columns": {"samples": "n"}},
        "prompts.columns.samples",
        "unknown request field",
        "guidance_scale",
        "remove prompts.columns.samples",
    ),
    "request field called like a key of prompts": (
        {"prompts__columns": {"path": "x"}},
        "prompts.columns.path",
        "unknown request field",
        "prompt, id",
        "remove prompts.columns.path",
    ),
    "request field called columns": (
        {"prompts__columns": {"columns": "x"}},
        "prompts.columns.columns",
        "unknown request field",
        "prompt, id",
        "remove prompts.columns.columns",
    ),
    "column that is a number": (
        {"prompts__columns": {"prompt": 4}},
        "prompts.columns.prompt",
        "4",
        "the name of a column, or null",
        "write prompts.columns.prompt in quotes",
    ),
    "column that is a mapping": (
        {"prompts__columns": {"id": {"a": "b"}}},
        "prompts.columns.id",
        "{'a': 'b'}",
        "the name of a column, or null",
        "set prompts.columns.id to the name",
    ),
    "column without a name": (
        {"prompts__columns": {"id": ""}},
        "prompts.columns.id",
        "''",
        "the name of a column, or null",
        "set prompts.columns.id",
    ),
    "columns that are a list": (
        {"prompts__columns": ["caption"]},
        "prompts.columns",
        "['caption']",
        "request field: name of a column",
        "write below prompts.columns",
    ),
    "quoted whole number": (
        {"seed": "5"},
        "seed",
        "'5'",
        "a whole number, 0 to 2^63-1",
        "without quotes",
    ),
    "quoted number": (
        {"defaults__guidance_scale": "7.5"},
        "defaults.guidance_scale",
        "'7.5'",
        "a number, 0 to 100",
        "without quotes",
    ),
    "quoted number where auto is allowed": (
        {"workers__batch_size": "4"},
        "workers.batch_size",
        "'4'",
        "auto or a whole number, 1 to 1024",
        "without quotes",
    ),
    "word where auto is allowed": (
        {"workers__count": "many"},
        "workers.count",
        "'many'",
        "auto or a whole number, 1 to 10000",
        "set workers.count to auto",
    ),
    "null for a number": ({"seed": None}, "seed", "None", "a whole number", "set seed to"),
    "bool for a number": (
        {"defaults__steps": True},
        "defaults.steps",
        "True",
        "a whole number, 1 to 1000",
        "set defaults.steps",
    ),
    "number for a text": (
        {"name": 5},
        "name",
        "5",
        "a text of 1 to 200 characters",
        "write name in quotes",
    ),
    "bool for a text": (
        {"model__revision": True},
        "model.revision",
        "True",
        "a branch, tag or commit",
        "write model.revision in quotes",
    ),
    "list for a text": (
        {"prompts__path": ["a", "b"]},
        "prompts.path",
        "['a', 'b']",
        "a Parquet file, folder or glob",
        "set prompts.path to",
    ),
    "null for a text": ({"output__uri": None}, "output.uri", "None", "s3://", "set output.uri"),
    "empty text": ({"model__path": ""}, "model.path", "''", "a hub id", "set model.path"),
    "empty name": ({"name": ""}, "name", "''", "1 to 200 characters", "set name"),
    "long name": ({"name": "n" * 201}, "name", "'nnn", "1 to 200 characters", "set name"),
    "long path": ({"output__uri": "n" * 5000}, "output.uri", "5002 characters", "s3://", "set"),
    "half a character in a text": ({"name": "\ud800"}, "name", "ud800", "a text", "set name"),
    "unknown dtype": (
        {"model__dtype": "fp16"},
        "model.dtype",
        "'fp16'",
        "auto, float16, bfloat16 or float32",
        "set model.dtype to auto, float16",
    ),
    "unknown engine": (
        {"model__engine": "fast"},
        "model.engine",
        "'fast'",
        "auto, steps, call or rehearsal",
        "set model.engine",
    ),
    "unknown offload": (
        {"model__offload": "disk"},
        "model.offload",
        "'disk'",
        "none, model or balanced",
        "set model.offload",
    ),
    "unknown container": (
        {"output__container": "tar"},
        "output.container",
        "'tar'",
        "webdataset, parquet or files",
        "set output.container",
    ),
    "unknown image format": (
        {"output__image": "PNG"},
        "output.image",
        "'PNG'",
        "png, jpeg or webp",
        "set output.image",
    ),
    "section that is a text": (
        {"prompts": "a.parquet"},
        "prompts",
        "'a.parquet'",
        "the keys path, columns, limit",
        "write below prompts: the keys path",
    ),
    "section that is empty": (
        {"defaults": None},
        "defaults",
        "None",
        "negative_prompt, width",
        "write below defaults: the keys",
    ),
    "section that is a list": (
        {"workers": [1]},
        "workers",
        "[1]",
        "count, gpus, cpus, batch_size",
        "write below workers: the keys",
    ),
    "infinite number": (
        {"limits__max_quarantined": float("inf")},
        "limits.max_quarantined",
        "inf",
        "a fraction of the rows, 0 to 1",
        "set limits.max_quarantined",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_reported_with_field_value_allowed_and_fix(mistake: str) -> None:
    changes, field, value, allowed, fix = MISTAKES[mistake]
    (problem,) = problems_of(document(**changes))
    assert problem.field == field
    assert value in problem.value
    assert allowed in problem.allowed
    assert fix in problem.fix
    assert not [word for word in PYDANTIC_JARGON if word in str(problem).lower()]
    assert len(str(problem)) < 1000


@pytest.mark.parametrize(
    "field", ["name", "prompts", "model", "output", "prompts.path", "model.path", "output.uri"]
)
def test_a_missing_key_is_named_with_what_it_is(field: str) -> None:
    job = document()
    section = job
    *sections, key = field.split(".")
    for name in sections:
        section = section[name]
    del section[key]
    (problem,) = problems_of(job)
    assert (problem.field, problem.value) == (field, "missing")
    assert problem.fix == f"add {field} to the job file"
    assert problem.allowed not in {"", "a key of the job file"}


def test_all_mistakes_are_reported_at_once() -> None:
    job: dict[str, Any] = {}
    expected = {"name", "prompts", "model", "output"}
    assert {problem.field for problem in problems_of(job)} == expected
    for changes, field, *_ in MISTAKES.values():
        (key,) = changes
        if "__" in key and field not in expected and not field.startswith("prompts.columns"):
            section, inner = key.split("__")
            job.setdefault(section, {})[inner] = changes[key]
            expected.add(field)
    expected |= {"prompts.path", "model.path", "output.uri"}
    expected -= {"prompts", "model", "output"}
    found = [problem.field for problem in problems_of(job)]
    assert set(found) == expected
    assert len(found) == len(expected) > 15


def test_one_mistake_in_a_union_is_one_problem() -> None:
    assert len(problems_of(document(workers__count=-1, workers__gpus="x"))) == 2


def test_every_request_field_can_be_given_a_column_or_none() -> None:
    columns = {name: name.upper() for name in get_args(RequestField)}
    several = {"model": None, "models": {"a": {"path": "x"}}}
    job = parse_job(document(**several, prompts__columns=columns))
    assert job.prompts.columns == columns
    off = dict.fromkeys(columns)
    assert parse_job(document(prompts__columns=off)).prompts.columns == off


# --- YAML and its traps ---

BOMB = "a: &a [x, x, x]\nb: &b [*a, *a, *a]\nname: [*b, *b, *b]\n"
NOT_A_JOB = {
    "empty": ("", "None"),
    "only a comment": ("# nothing\n", "None"),
    "a list": ("- name: x\n", "[{'name': 'x'}]"),
    "a text": ("hello", "'hello'"),
    "a number": ("5", "5"),
    "not YAML": ("name: [1, 2\n", "line 2"),
    "a colon too many": ("name: a: b\n", "line 1, column 8"),
    "a tab as indentation": ("model:\n\tpath: x\n", "line 2, column 1"),
    "two documents": (f"{SMALLEST}---\n{SMALLEST}", "another document"),
    "a key twice": (f"{SMALLEST}name: other\n", "line 5, column 1: the key 'name' stands twice"),
    "a key twice, once quoted": (f'{SMALLEST}"name": other\n', "stands twice"),
    "a key twice below": ("shards: {rows: 1, rows: 2}\n", "the key 'rows' stands twice"),
    "an alias": ("name: &n x\nmodel: {path: *n}\n", "line 2, column 15: aliases are not allowed"),
    "a bomb": (BOMB, "aliases are not allowed"),
    "an alias to itself": ("name: &a [*a]\n", "aliases are not allowed"),
    "a merge key": (f"{SMALLEST}x: &x {{}}\n<<: *x\n", "aliases are not allowed"),
    "an unquoted glob": ("prompts: {path: *.parquet}\n", "line 1, column 18"),
    "a tag of Python": (
        "name: !!python/object/apply:os.system [id]\n",
        "line 1, column 7: tags are not allowed",
    ),
    "a tag on a mapping": ("!!python/object:x.Y {a: b}\n", "tags are not allowed"),
    "a tag of one's own": ("name: !secret x\n", "tags are not allowed"),
    "a tag that does not fit": ("seed: !!int ''\n", "tags are not allowed"),
    "a tag that does not fit either": ("seed: !!bool maybe\n", "tags are not allowed"),
    "a tag that breaks": ("seed: !!timestamp x\n", "tags are not allowed"),
    "a list as a key": ("? [a, b]\n: c\n", "line 1, column 3: the key that starts here"),
    "a mapping as a key": ("{a: b}: c\n", "the key that starts here is not a text"),
    "a number as a key": ("1: x\n", "the key '1' is not a text"),
    "null as a key": ("null: x\n", "the key 'null' is not a text"),
    "a bool as a key": ("true: x\n", "the key 'true' is not a text"),
    "a control character": ("name: \0x\n", "special characters"),
    "no such character": ('name: "\\U00110000"\n', "range"),
    "brackets without end": ("[" * 100_000, "recursion"),
    "mappings without end": ("{a: " * 5000, "recursion"),
}


@pytest.mark.parametrize("kind", NOT_A_JOB)
def test_what_is_no_job_file_is_refused_and_the_place_named(kind: str, tmp_path: Path) -> None:
    text, value = NOT_A_JOB[kind]
    (problem,) = file_problems(tmp_path / "job.yaml", text)
    assert problem.field == "JOB"
    assert value in problem.value
    assert "YAML mapping" in problem.allowed
    assert problem.fix
    assert len(str(problem)) < 600


def test_a_merge_key_is_a_key_like_any_other(tmp_path: Path) -> None:
    (problem,) = file_problems(tmp_path / "job.yaml", f"{SMALLEST}<<: {{seed: 5}}\n")
    assert (problem.field, problem.value) == ("<<", "unknown key")


@pytest.mark.parametrize(
    ("text", "fixes"),
    [
        ("0123", "as a plain number"),  # 83 to YAML 1.1
        ("1:30", "set seed to"),  # 90 to YAML 1.1
        ("1e3", "set seed to"),
        ("9" * 5000, "as a plain number"),
        ("0x" + "f" * 5000, "set seed to"),
        ("2026-13-45", "set seed to"),
        ("yes", "set seed to"),
        (".nan", "set seed to"),
        ("-.inf", "set seed to"),
    ],
)
def test_a_number_that_reads_in_two_ways_is_not_guessed(
    text: str, fixes: str, tmp_path: Path
) -> None:
    (problem,) = file_problems(tmp_path / "job.yaml", f"{SMALLEST}seed: {text}\n")
    assert problem.field == "seed"
    assert fixes in problem.fix
    assert len(str(problem)) < 600


@pytest.mark.parametrize(
    ("text", "value"),
    [("5", 5), ("+5", 5), ("1_000", 1000), ("0x1F", 31), (str(2**63 - 1), 2**63 - 1), ("0", 0)],
)
def test_whole_numbers_are_read_as_written(text: str, value: int, tmp_path: Path) -> None:
    assert load_text(tmp_path, f"{SMALLEST}seed: {text}\n").seed == value


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 0.001), ("1E-3", 0.001), (".5", 0.5), ("1.", 1.0), ("0.2e+0", 0.2)]
)
def test_numbers_are_read_as_written(text: str, value: float, tmp_path: Path) -> None:
    job = load_text(tmp_path, f"{SMALLEST}limits: {{max_quarantined: {text}}}\n")
    assert job.limits.max_quarantined == value


@pytest.mark.parametrize("text", [".nan", ".inf", "-.inf", "1e999"])
def test_numbers_that_are_none_are_refused(text: str, tmp_path: Path) -> None:
    for key in ("limits.max_quarantined", "defaults.guidance_scale", "workers.gpus"):
        section, name = key.split(".")
        text_of_job = f"{SMALLEST}{section}: {{{name}: {text}}}\n"
        (problem,) = file_problems(tmp_path / "job.yaml", text_of_job)
        assert problem.field == key
        assert problem.value == repr(float(text.replace(".n", "n").replace(".i", "i")))


@pytest.mark.parametrize("text", ["on", "off", "yes", "no", "2026-01-01", "1:30", "010", "=", "<<"])
def test_a_plain_word_is_a_text(text: str, tmp_path: Path) -> None:
    job = SMALLEST.replace("name: small", f"name: {text}")
    assert load_text(tmp_path, job).name == text


# PyYAML writes U+0085 so that it reads a space.
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x85"), max_size=20)


@given(st.integers(-(10**19), 10**19) | st.floats(0, 1) | TEXTS)
def test_what_yaml_writes_is_read_as_the_same_value(value: float | str) -> None:
    key = "name" if isinstance(value, str) else "seed"
    key = "limits.max_quarantined" if isinstance(value, float) else key
    base = parse_job(document())
    text = yaml.safe_dump(value, allow_unicode=True).removesuffix("...\n").rstrip("\n")
    allowed = value != "" if isinstance(value, str) else 0 <= value < 2**63
    try:
        job = override_job(base, [f"{key}={text}"])
        section, _, name = key.rpartition(".")
        found = getattr(getattr(job, section) if section else job, name)
    except InputError as error:
        found = [problem.field for problem in error.problems]
    assert found == (value if allowed else [key])


def test_variables_are_not_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    text = SMALLEST.replace("uri: out", "uri: 's3://b/${SECRET}/$SECRET'")
    assert load_text(tmp_path, text).output.uri == "s3://b/${SECRET}/$SECRET"


def test_a_byte_order_mark_and_line_ends_of_windows_do_no_harm(tmp_path: Path) -> None:
    text = "\ufeff" + DESIGN.replace("\n", "\r\n")
    assert load_text(tmp_path, text) == load_text(tmp_path, DESIGN)


# --- the file itself ---


@pytest.mark.parametrize("data", [b"name: \xff\xfe", b"\x80", "name: ä".encode("latin-1")])
def test_what_is_not_utf_8_is_refused(data: bytes, tmp_path: Path) -> None:
    (problem,) = file_problems(tmp_path / "job.yaml", data)
    assert problem.field == "JOB"
    assert "utf-8" in problem.value
    assert "job.yaml" in problem.value
    assert "in UTF-8" in problem.allowed


def test_a_file_too_big_to_be_a_job_file_is_refused_and_one_byte_less_is_not(
    tmp_path: Path,
) -> None:
    fits = SMALLEST + "#" * (MAX_JOB_FILE_BYTES - len(SMALLEST))
    assert load_text(tmp_path, fits).name == "small"
    (problem,) = file_problems(tmp_path / "job.yaml", fits + "#")
    assert f"{MAX_JOB_FILE_BYTES:,} bytes" in problem.allowed
    assert problem.fix == "check that this is the job file"


@pytest.mark.timeout(20)
def test_a_job_may_come_through_a_pipe_and_an_endless_one_is_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(SMALLEST,))
    writer.start()
    assert load_job(pipe).name == "small"
    writer.join()
    with pytest.raises(InputError) as caught:
        load_job(Path("/dev/zero"))
    assert f"{MAX_JOB_FILE_BYTES:,} bytes" in caught.value.problems[0].allowed


def test_a_file_that_is_not_there_or_a_folder_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path, tmp_path / "a" / ("x" * 300)):
        with pytest.raises(InputError) as caught:
            load_job(path)
        (problem,) = caught.value.problems
        assert problem.field == "JOB"
        assert str(path)[:100] in problem.value
        assert problem.fix == "check the path and the file"


# --- overrides ---


def test_overrides_win_over_the_file_and_the_last_over_the_first(tmp_path: Path) -> None:
    job = load_text(
        tmp_path,
        DESIGN,
        "seed=1",
        "seed=2",
        "workers.count=3",
        "workers.gpus=0.5",
        "limits.max_quarantined=1e-3",
        "prompts.columns.id=null",
        "prompts.columns.seed=s",
        "prompts.limit=null",
        "prompts.path=s3://b/x=y/*.parquet",
        "name=with = and no",
        "defaults.negative_prompt='5'",
        "defaults.scheduler=euler",
    )
    assert job.seed == 2
    assert (job.workers.count, job.workers.gpus) == (3, 0.5)
    assert job.limits.max_quarantined == 0.001
    assert job.prompts.columns == {"prompt": "caption", "id": None, "seed": "s"}
    assert job.prompts.limit is None
    assert job.prompts.path == "s3://b/x=y/*.parquet"
    assert job.name == "with = and no"
    assert job.defaults.negative_prompt == "5"
    assert job.defaults.scheduler == "euler"
    assert job.defaults.width == 512


def test_an_override_may_open_a_section_or_replace_one(tmp_path: Path) -> None:
    job = load_text(tmp_path, SMALLEST, "shards.rows=7", "workers={count: 2, cpus: 4}")
    assert job.shards.rows == 7
    assert (job.workers.count, job.workers.cpus, job.workers.gpus) == (2, 4, "auto")


BAD_OVERRIDES = [
    ("seed", "--set", "'seed'", "key=value"),
    ("", "--set", "''", "key=value"),
    ("=5", "--set", "'=5'", "key=value"),
    ("a..b=5", "--set", "'a..b=5'", "key=value"),
    (".=5", "--set", "'.=5'", "key=value"),
    ("name.first=x", "--set", "name.first", "a key of the job file"),
    ("workers.count=[1", "--set", "[1", "a YAML value"),
    ("prompts.path=*.parquet", "--set", "*.parquet", "a YAML value"),
    ("name=!!python/name:os.system", "--set", "os.system", "a YAML value"),
    ("seed=!!bool x", "--set", "!!bool", "a YAML value"),
    ('name="\\U00110000"', "--set", "U00110000", "a YAML value"),
    ("name=" + "[" * 3000, "--set", "characters", "a YAML value"),
    ("name=a: b: c", "--set", "a: b: c", "a YAML value"),
    ("seed=x", "seed", "'x'", "a whole number"),
    ("seed=", "seed", "None", "a whole number"),
    ("seed='5'", "seed", "'5'", "a whole number"),
    ("workers.cuont=5", "workers.cuont", "unknown key", "count"),
    ("limit.attempts=5", "limit", "unknown key", "limits"),
    ("workers=null", "workers", "None", "count, gpus"),
    ("prompts.columns.promt=x", "prompts.columns.promt", "unknown request field", "prompt, id"),
    ("defaults.width=0", "defaults.width", "0", "8 to 8192"),
]


@pytest.mark.parametrize(("override", "field", "value", "allowed"), BAD_OVERRIDES)
def test_a_bad_override_is_reported_like_a_mistake_in_the_file(
    override: str, field: str, value: str, allowed: str, tmp_path: Path
) -> None:
    (problem,) = file_problems(tmp_path / "job.yaml", SMALLEST, override)
    assert problem.field == field
    assert value in problem.value
    assert allowed in problem.allowed
    assert problem.fix


def test_mistakes_of_all_overrides_and_of_the_file_are_reported_together(tmp_path: Path) -> None:
    text = SMALLEST.replace("name: small", "nam: small")
    found = file_problems(tmp_path / "job.yaml", text, "x", "y", "seed=-1", "shards.rows=[")
    assert [problem.field for problem in found] == ["--set"] * 3 + ["name", "seed", "nam"]


def test_overriding_a_job_leaves_the_first_one_as_it_was() -> None:
    job = parse_job(document(prompts__columns={"id": "key"}))
    before = copy.deepcopy(job)
    changed = override_job(job, ["prompts.columns.id=null", "limits.attempts=9"])
    assert job == before
    assert changed.prompts.columns == {"id": None}
    assert changed.limits.attempts == 9
    with pytest.raises(InputError):
        override_job(job, ["limits.attempts=0"])
