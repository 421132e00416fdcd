"""Job files and overrides made to exhaust, hang or run something: each is refused, quickly.

A file is read in a child process with bounded memory and time, so that what swallows either is a
failure with a name.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from render_farm.errors import InputError
from render_farm.job.load import load_job
from tests.hostile.children import verdicts

LONGEST_MESSAGE = 12_000
"""Fifty mistakes and no more are told at once."""

MOST_GROWTH_MIB = 100
MOST_CPU_S = 20

JOB = """\
name: hostile
prompts: {path: prompts.parquet}
model: {path: none, engine: rehearsal}
output: {uri: out}
"""


def laughs(levels: int) -> str:
    """A billion laughs: each level is nine of the level before."""
    lines = ["l0: &l0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [
        f"l{level}: &l{level} [{', '.join([f'*l{level - 1}'] * 9)}]" for level in range(1, levels)
    ]
    return "\n".join(lines)


def repeated(text: str, size: int = 90_000) -> str:
    return text * (size // len(text))


TEXTS: dict[str, str | bytes] = {
    "a billion laughs": laughs(10),
    "a quadratic bomb": f"a: &a {'x' * 50_000}\nb: [{', '.join(['*a'] * 1000)}]\n",
    "an alias of itself": "a: &a {b: *a}\n",
    "a merge of itself": "a: &a\n  <<: *a\n",
    "merges of merges": "a: &a {x: 1}\nb: &b {<<: [*a, *a]}\nc: {<<: [*b, *b]}\n",
    "an unused anchor": f"{JOB}extra: &a x\n",
    "ten megabytes": f"{JOB}#{'x' * 10_000_000}",
    "ten megabytes of one line": "x" * 10_000_000,
    "brackets without end": "[" * 90_000,
    "braces without end": repeated("{a: "),
    "sequences without end": repeated("- "),
    "questions without end": repeated("? "),
    "indentation without end": "\n".join(" " * level + "a:" for level in range(400)),
    "a mapping of ten thousand keys": "".join(f"k{n}: 1\n" for n in range(10_000)),
    "a list of many": f"{JOB}loras: [{repeated('x, ', 80_000)}x]",
    "a key as long as a job file may be": f"{JOB}{'k' * 80_000}: 1\n",
    "a key that is asked for": f"{JOB}? {'k' * 80_000}\n: 1\n",
    "a key of control characters": f'{JOB}"\\e[31m\\0": 1\n',
    "a value as long as a job file may be": f"{JOB.replace('hostile', 'x' * 80_000)}",
    "a quoted text without end": f'name: "{"x" * 80_000}',
    "a block text without end": "name: |\n" + repeated("  x\n"),
    "escapes without end": f'name: "{repeated(chr(92) + "x41")}"',
    "a bad escape": 'name: "\\xZZ"\n',
    "a character that does not exist": 'name: "\\UFFFFFFFF"\n',
    "a lone surrogate": JOB.replace("hostile", '"\\ud800"'),
    "a Python object": "!!python/object/apply:os.system ['touch pwned']\n",
    "a Python name": f"{JOB}seed: !!python/name:os.system\n",
    "a Python module": "name: !!python/module:os\n",
    "a Python tuple": "name: !!python/tuple [a, b]\n",
    "a tag by its address": "name: !<tag:yaml.org,2002:python/object/new:os.system> [id]\n",
    "a tag by a handle": "%TAG !p! tag:yaml.org,2002:python/\n---\nname: !p!name:os.system x\n",
    "a tag of binary": "name: !!binary aGk=\n",
    "a set": "name: !!set {a, b}\n",
    "a timestamp by its tag": "name: !!timestamp 2026-01-01\n",
    "a date for a number": f"{JOB}seed: 2026-01-01\n",
    "an infinite number": f"{JOB}limits: {{max_quarantined: 1e999}}\n",
    "a number of 80,000 digits": f"{JOB}seed: {'9' * 80_000}\n",
    "a number of 80,000 digits in hex": f"{JOB}seed: 0x{'f' * 80_000}\n",
    "a fraction of 80,000 digits": f"{JOB}limits: {{max_quarantined: 0.{'9' * 80_000}x}}\n",
    "an exponent of 80,000 digits": f"{JOB}defaults: {{guidance_scale: 1e{'9' * 80_000}}}\n",
    "underscores without end": f"{JOB}seed: 1{'_' * 50_000}\n",
    "an octal number": f"{JOB}seed: 0777\n",
    "an octal number of YAML 1.2": f"{JOB}seed: 0o777\n",
    "a sexagesimal number": f"{JOB}seed: 1:30:00\n",
    "a binary number": f"{JOB}seed: 0b101\n",
    "nan": f"{JOB}limits: {{max_quarantined: .nan}}\n",
    "a key twice": f"{JOB}seed: 1\nseed: 2\n",
    "a section twice": f"{JOB}model: {{path: other}}\n",
    "two documents": f"{JOB}---\n{JOB}",
    "a thousand documents": "---\n" * 1000,
    "a tab": "name: x\n\tprompts: y\n",
    "a nul": f"{JOB}# \0\n",
    "a control character": f"{JOB}seed: \x1b[31m\n",
    "bytes that are not UTF-8": JOB.encode() + b"# \xff\xfe\n",
    "UTF-16": JOB.encode("utf-16"),
    "UTF-32": JOB.encode("utf-32"),
    "a zip": b"PK\x03\x04" + bytes(100),
    "a pickle": b"\x80\x04\x95\x0f\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94.",
    "a directive of another version": f"%YAML 3.0\n---\n{JOB}",
    "directives without end": repeated("%FOO bar\n"),
    "nothing": "",
    "keys of every kind": "? [a]\n: 1\n? {b: c}\n: 2\n",
    "dunder keys": f"{JOB}__class__: x\nmodel_config: {{}}\n",
    "a wrong key that looks like many": f"{JOB}" + "".join(f"nam{n}: 1\n" for n in range(2000)),
}

OVERRIDES: dict[str, str] = {
    "a billion laughs": f"name={{{laughs(10).replace(chr(10), ', ')}}}",
    "an alias": "name=*a",
    "a Python object": "name=!!python/object/apply:os.system [id]",
    "brackets without end": "name=" + "[" * 100_000,
    "a path without end": "a." * 100_000 + "b=1",
    "a number of 80,000 digits": f"seed={'9' * 80_000}",
    "an infinite number": "limits.max_quarantined=1e999",
    "a nul": "name=\0",
    "a lone surrogate": "name=\udcff",
    "no value": "name",
    "no key": "=1",
    "dots": "...=1",
    "dunders": "__class__.__init__=1",
    "a megabyte": f"seed={'x' * 1_000_000}",
}


def odd_path(kind: str, folder: Path) -> Path:
    """Something that is no job file to be opened."""
    path = folder / "job.yaml"
    if kind == "a folder":
        path.mkdir()
    elif kind == "a link to itself":
        path.symlink_to(path)
    elif kind == "a link to nothing":
        path.symlink_to(folder / "none")
    elif kind == "endless zeros":
        return Path("/dev/zero")
    elif kind == "endless noise":
        return Path("/dev/urandom")
    elif kind == "this process's memory":
        return Path("/proc/self/mem")
    elif kind == "a name with a nul":
        return Path("a\0b.yaml")
    elif kind == "a name that is too long":
        return Path("x" * 5000)
    elif kind == "a pipe that nobody writes to":
        os.mkfifo(path)
    return path


PATHS = (
    "nothing there",
    "a folder",
    "a link to itself",
    "a link to nothing",
    "endless zeros",
    "endless noise",
    "this process's memory",
    "a name with a nul",
    "a name that is too long",
    "a pipe that nobody writes to",
)
CASES = [
    *(("text", name) for name in TEXTS),
    *(("--set", name) for name in OVERRIDES),
    *(("path", name) for name in PATHS),
]


def judge(case: int) -> str:
    """Read a case; the verdict is ``refused``, or what is wrong with that."""
    kind, name = CASES[case]
    with tempfile.TemporaryDirectory() as folder:
        path, overrides = Path(folder) / "job.yaml", []
        if kind == "path":
            path = odd_path(name, Path(folder))
        else:
            text = TEXTS[name] if kind == "text" else JOB
            path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
            overrides = [OVERRIDES[name]] if kind == "--set" else []
        before = resource.getrusage(resource.RUSAGE_SELF)
        try:
            load_job(path, overrides)
        except InputError as error:
            message = str(error)
        else:
            return "accepted"
        after = resource.getrusage(resource.RUSAGE_SELF)
    grown_mib = (after.ru_maxrss - before.ru_maxrss) >> 10
    if grown_mib > MOST_GROWTH_MIB or after.ru_utime - before.ru_utime > MOST_CPU_S:
        return f"took {grown_mib} MiB and {after.ru_utime - before.ru_utime:.1f} s"
    if len(message) > LONGEST_MESSAGE or not message.replace("\n", "").isprintable():
        return f"a message of {len(message)} characters: {message[:200]!r}"
    return "refused"


def test_every_hostile_job_file_override_and_path_is_refused(
    figure: Callable[[str, object], None], tmp_path: Path
) -> None:
    found = verdicts(f"{__name__}:judge", range(len(CASES)), tmp_path)
    assert {CASES[case]: end for case, end in found.items() if end != "refused"} == {}
    figure("hostile job files, overrides and paths: refused", len(found))


def test_the_job_that_the_cases_spoil_is_itself_accepted(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(JOB)
    assert load_job(tmp_path / "job.yaml").name == "hostile"


@pytest.mark.parametrize("name", ["a billion laughs", "a Python object", "a list of many"])
def test_the_command_says_what_is_wrong_and_ends_with_2(name: str, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(str(TEXTS[name]))
    command = [sys.executable, "-m", "render_farm", "validate", str(path), "--json"]
    ended = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 2, ended.stderr
    (problem, *_) = json.loads(ended.stdout)["errors"]
    assert problem["field"] == "JOB" or name == "a list of many"
    assert "Traceback" not in ended.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["job.yaml"]
