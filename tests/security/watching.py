"""What the processes of a command show of themselves while they run."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType

import psutil

EVERY_S = 0.1


class Watch:
    """Keeps every command line and every listening address of a process and its descendants.

    `/proc/<pid>/environ` is left out: the credentials that a user has put into the environment are
    there, and only that user can read it.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.titles: set[str] = set()
        self.listening: dict[tuple[str, int], str] = {}

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(EVERY_S):
            for process in self._family():
                with suppress(psutil.Error):
                    self.titles.add(" ".join([process.name(), *process.cmdline()]))
                    for one in process.net_connections():
                        if one.status == psutil.CONN_LISTEN:
                            self.listening[one.laddr.ip, one.laddr.port] = process.name()

    def _family(self) -> Iterator[psutil.Process]:
        with suppress(psutil.Error):
            root = psutil.Process(self._pid)
            yield root
            yield from root.children(recursive=True)
