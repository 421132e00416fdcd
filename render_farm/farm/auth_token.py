"""The token of a Ray cluster of our own, where nobody but its owner can read it."""

from __future__ import annotations

import logging
import os
import secrets
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

log = logging.getLogger(__name__)

OTHERS = 0o077


def keep_token_private(environment: MutableMapping[str, str]) -> None:
    """See to it that Ray finds a token, in ``~/.ray/auth_token`` with mode 0600.

    Ray would write one that everybody on the machine can read. A token that is there is kept, and
    closed to others. Where the home folder is missing or cannot be written, or the token there is
    somebody else's, `environment` gets one that ends with this process and those it starts. A token
    that the user has given by ``RAY_AUTH_TOKEN`` or ``RAY_AUTH_TOKEN_PATH`` is left alone.
    """
    if environment.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    if environment.get("RAY_AUTH_TOKEN") or environment.get("RAY_AUTH_TOKEN_PATH"):
        return
    home = environment.get("HOME")  # where Ray looks, too
    try:
        if home:
            _keep_in(Path(home) / ".ray" / "auth_token")
            return
    except OSError as error:
        log.info("no file for Ray's token", extra={"error": str(error)})
    environment["RAY_AUTH_TOKEN"] = _new_token()


def _keep_in(path: Path) -> None:
    """A token in a file that only its owner can read. Raises: `OSError`."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        _create(path)
    found = path.stat()
    if found.st_uid != os.geteuid():
        raise PermissionError(f"{path} belongs to somebody else")
    if found.st_mode & OTHERS:
        path.chmod(0o600)
        log.warning(
            "Ray's token could be read by others on this machine, and cannot be any more; "
            "delete the file for a new one",
            extra={"path": str(path)},
        )


def _create(path: Path) -> None:
    """Write a new token whole or not at all; one that another process made meanwhile stays."""
    handle, name = tempfile.mkstemp(dir=path.parent)  # of mode 0600 under any umask
    try:
        with os.fdopen(handle, "w") as file:
            file.write(_new_token())
        os.link(name, path)
    except FileExistsError:
        return
    finally:
        Path(name).unlink()


def _new_token() -> str:
    """256 random bits, as Ray's own."""
    return secrets.token_hex(32)
