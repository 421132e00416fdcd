"""Runs `render-farm` on what nobody should trust, every time in a process of its own.

One process imports the libraries once and forks for every trial. A fork has little memory and
little time, and notes what it should never do: unpickle, read code or what lies elsewhere, start a
program, speak to the network.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[2]
MEMORY_BYTES = 3 * 2**30
"""Address space a trial may add to what the libraries take: more than a tiny model ever needs."""
PATIENCE_S = 60.0
OUTSIDE = "outside"
"""The folder beside the model from which a trial must read nothing."""
CODE = (".py", ".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle")
FORBIDDEN = (
    "ctypes.dlopen",
    "os.exec",
    "os.posix_spawn",
    "os.system",
    "pickle.find_class",
    "socket.connect",
    "socket.getaddrinfo",
    "subprocess.Popen",
)


@dataclass(frozen=True, slots=True)
class Trial:
    """How a command ended: by itself with `code`, or killed by a signal (negative), as -9 for time.

    `peak_mib` is all that it had in memory at once; `misdeeds` are what it should not have done.
    """

    code: int
    out: str
    err: str
    peak_mib: int
    seconds: float
    misdeeds: tuple[str, ...]

    @property
    def json(self) -> Any:
        """Standard output as the one JSON object that it must be."""
        return json.loads(self.out)


class Trials:
    """The process that forks for every trial; a context manager that ends it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()  # no trial is under way, and it keeps nothing
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()

    def run(self, scratch: Path, *arguments: object) -> Trial:
        """`render-farm` with these arguments, its output kept in the folder `scratch`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        asked = {"scratch": str(scratch), "arguments": [str(each) for each in arguments]}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        noted = scratch / "misdeeds"
        return Trial(
            out=(scratch / "out").read_text(),
            err=(scratch / "err").read_text(errors="replace"),
            misdeeds=tuple(noted.read_text().splitlines()),
            **answer,
        )


def serve() -> None:
    """Answer each line of standard input, a trial to make, with a line."""
    from render_farm.cli.main import main  # noqa: PLC0415 - the parent only starts this process

    _import_libraries()
    for line in sys.stdin:
        asked = json.loads(line)
        began_s = time.monotonic()
        child = os.fork()
        if child == 0:
            os._exit(_try(main, Path(asked["scratch"]), asked["arguments"]))
        code, peak_mib = _await(child)
        seconds = round(time.monotonic() - began_s, 2)
        answer = {"code": code, "peak_mib": peak_mib, "seconds": seconds}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _import_libraries() -> None:
    """All that loading and rendering imports lazily, so that no trial pays for it."""
    import diffusers  # noqa: PLC0415
    import peft  # noqa: F401, PLC0415
    import torch  # noqa: PLC0415
    import transformers  # noqa: PLC0415

    import render_farm.engine.steps  # noqa: PLC0415
    import render_farm.farm.prepare  # noqa: PLC0415
    import render_farm.farm.session  # noqa: F401, PLC0415

    torch.set_num_threads(1)
    for name in ("StableDiffusionPipeline", "AutoencoderKL", "PNDMScheduler", "DDIMScheduler"):
        getattr(diffusers, name)
    for name in ("CLIPTextModel", "CLIPTokenizer"):
        getattr(transformers, name)


def _try(main: Any, scratch: Path, arguments: Sequence[str]) -> int:
    """In the fork: the command under limits; its exit code."""
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(scratch / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    notes = os.open(scratch / "misdeeds", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    limit = _address_space() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def listen(event: str, details: tuple[Any, ...]) -> None:
        if event in FORBIDDEN or (event == "open" and _is_taboo(scratch, details[0])):
            os.write(notes, f"{event} {details!r:.200}\n".encode())

    sys.addaudithook(listen)
    sys.argv = ["render-farm", *arguments]
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    except BaseException as error:  # noqa: BLE001 - what a shell would see of it
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _is_taboo(scratch: Path, path: object) -> bool:
    """Whether a file is code or a pickle of the model's, or lies where no model may look."""
    if not isinstance(path, str) or not path.startswith(str(scratch)):
        return False
    return path.endswith(CODE) or Path(path).is_relative_to(scratch / OUTSIDE)


def _await(child: int) -> tuple[int, int]:
    """Exit code or minus the signal, and the most MiB it had; kills what takes too long."""
    ending = os.pidfd_open(child)
    try:
        if not select.select([ending], [], [], PATIENCE_S)[0]:
            os.kill(child, signal.SIGKILL)
        _, status, used = os.wait4(child, 0)
    finally:
        os.close(ending)
    return os.waitstatus_to_exitcode(status), used.ru_maxrss // 1024


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    serve()
