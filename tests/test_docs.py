"""What the documents say is what the code does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import get_args

import pytest
import yaml
from pydantic import BaseModel

from render_farm.cli.main import app
from render_farm.engine.schedulers import NAMES
from render_farm.job.load import parse_job
from render_farm.job.spec import JobSpec

ROOT = Path(__file__).parent.parent


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
        sections = [one for one in kinds if isinstance(one, type) and issubclass(one, BaseModel)]
        if sections:
            yield from keys_of(sections[0], f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def test_every_key_of_the_job_file_is_documented_and_no_other():
    text = (ROOT / "docs" / "job-file.md").read_text()
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    documented = {key for row in rows for key in re.findall(r"`([^`]+)`", row)}
    assert documented == set(keys_of(JobSpec))


def test_every_scheduler_is_documented():
    text = (ROOT / "docs" / "job-file.md").read_text()
    assert all(f"`{name}`" in text for name in NAMES)


@pytest.mark.parametrize("document", ["README.md"])
def test_job_files_in_the_documents_are_valid(document: str):
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        parse_job(yaml.safe_load(block))


def test_the_readme_lists_every_command():
    commands = {c.callback.__name__ for c in app.registered_commands if c.callback}
    text = (ROOT / "README.md").read_text()
    assert {name for name in commands if f"`{name} " in text} == commands


def test_links_between_documents_lead_somewhere():
    for document in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("infra/*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
