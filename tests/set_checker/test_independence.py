"""A checker that shared code with what it checks would share its mistakes."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from tests.set_checker.conftest import SAMPLES, SHARD_ROWS, Made

PACKAGE = Path(__file__).parent
ROOT = PACKAGE.parents[1]
CHECKER = sorted(
    path
    for path in PACKAGE.glob("*.py")
    if not path.name.startswith("test_") and path.name != "conftest.py"
)
"""All but the tests of the checker, which make runs for it."""


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, path
            names.add(node.module or "")
    return names


def test_no_module_of_the_checker_imports_render_farm_or_what_knows_it() -> None:
    assert len(CHECKER) >= 8
    for path in CHECKER:
        ours = {name for name in imported(path) if name.startswith(("render_farm", "tests"))}
        assert all(name.startswith("tests.set_checker.") for name in ours), path
        assert "tests.set_checker.conftest" not in ours, path
        assert not imported(path) & {"importlib", "runpy", "subprocess"}, path


def test_it_checks_a_run_in_a_process_that_has_no_render_farm(made: Made) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "sys.modules['render_farm'] = None\n"  # an import of it would fail from here on
        "from tests.set_checker import check_set, folder_blobs\n"
        "prompts, blobs = Path(sys.argv[1]), folder_blobs(Path(sys.argv[2]))\n"
        f"verdict = check_set(prompts, blobs, samples={SAMPLES}, shard_rows={SHARD_ROWS})\n"
        "assert not [name for name in sys.modules if name.startswith('render_farm.')]\n"
        "print(verdict.whole, verdict.samples)\n"
    )
    command = [sys.executable, "-c", program, str(made.prompts), str(made.folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "True 18\n", done.stderr
