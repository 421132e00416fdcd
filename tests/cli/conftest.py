"""Running the command in this process, as the shell would."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from render_farm.cli.main import main
from tests.making.jobs import job_document, write_prompts


@dataclass(frozen=True)
class Ended:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as the one JSON object that it must be."""
        return json.loads(self.out)

    @property
    def fields(self) -> list[str]:
        """The fields that the errors name."""
        return [error["field"] for error in self.json["errors"]]


@pytest.fixture
def farm(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Ended]:
    """`farm("status", run)`: exit code, standard output, standard error."""

    def run(*arguments: object) -> Ended:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["render-farm", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        return Ended(int(ended.value.code or 0), out, err)

    return run


@pytest.fixture
def write_job(tmp_path: Path) -> Callable[..., Path]:
    """A job file with a dataset of its own; `prompts_columns` are columns of the dataset."""

    def write(
        rows: int = 12, columns: dict[str, Any] | None = None, name: str = "job", **sections: Any
    ) -> Path:
        prompts = write_prompts(tmp_path / "prompts.parquet", rows, **(columns or {}))
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(job_document(prompts, tmp_path / "run", **sections)))
        return path

    return write
