"""An object's bytes as a stream that survives broken connections and notices damage."""

from __future__ import annotations

import hashlib
import io
import logging
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from render_farm.errors import Damaged, Unavailable
from render_farm.store.fingerprint import Fingerprint
from render_farm.store.s3_errors import FOREIGN, is_transient, translated

logger = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 20
FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 5.0


class Body(Protocol):
    """What is needed of botocore's `StreamingBody`."""

    def read(self, amt: int | None = None) -> bytes: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Part:
    """An answer to GET: its bytes to come, how many there are, and which version it is.

    `total_bytes` is the size of the whole object. `sealed` where its ETag may be held against all
    of its bytes.
    """

    body: Body
    size_bytes: int
    etag: str
    total_bytes: int
    sealed: bool = False


class ContinuedBody(io.RawIOBase):
    """Bytes of one version of an object, from `start` to the end that the first answer gives.

    botocore does not retry a GET whose body breaks off. This fetches the rest from where it
    broke, checks by the ETag that it is the same version, and gives up when nothing has come for
    `patience_s`.

    Nobody notices bits that were flipped behind the store's back either. At the end of a whole
    object its ETag is held against what came. An ETag that is no MD5 of it, as some stores have
    them, proves nothing: the object is read once more, and two readings that agree are believed.

    Args:
        fetch: opens the object from an offset to the end wanted; translates its own errors.
        etag: the version wanted, where something of it was read before.

    Raises:
        Unavailable: when nothing comes or the object was replaced meanwhile.
        Damaged: on reading the end, if neither the ETag nor a second reading agrees.
        StoreError: whatever `fetch` raises.
    """

    def __init__(
        self,
        fetch: Callable[[int], Part],
        start: int,
        *,
        uri: str,
        key: str,
        patience_s: float,
        etag: str | None = None,
    ) -> None:
        self._fetch = fetch
        self._uri = uri
        self._key = key
        self._patience_s = patience_s
        self._part = fetch(start)
        self._etag = etag or self._part.etag
        self._check_version(None)
        self._position = start
        self._end = start + self._part.size_bytes
        self._fruitless = 0
        self._deadline = time.monotonic() + patience_s
        self._fingerprint: Fingerprint | None = None
        whole = start == 0 and self._end == self._part.total_bytes
        if whole and self._part.sealed:
            self._fingerprint = Fingerprint(self._etag, self._part.size_bytes)

    @property
    def etag(self) -> str:
        """The version that is read."""
        return self._etag

    @property
    def sealed(self) -> bool:
        """Whether the version may be held against the bytes of the whole object."""
        return self._part.sealed

    @property
    def stop(self) -> int:
        """Where in the object it ends."""
        return self._end

    @property
    def total_bytes(self) -> int:
        """The size of the whole object."""
        return self._part.total_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview | bytearray, /) -> int:  # type: ignore[override]
        data = self._read_some(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return b"".join(self.pieces())

    def pieces(self) -> Iterator[bytes]:
        """What is left of it, as it comes."""
        while data := self._read_some(CHUNK_BYTES):
            yield data

    def close(self) -> None:
        if not self.closed:
            self._part.body.close()
        super().close()

    def _read_some(self, size: int) -> bytes:
        """Some bytes, at most `size`; none at the end of the object only."""
        wanted = min(size, self._end - self._position)
        if self._position == self._end:
            self._check_whole()
        while wanted:
            failure: BaseException | None = None
            try:
                data = self._part.body.read(wanted)
            except FOREIGN as error:
                if not is_transient(error):
                    raise translated(self._uri, self._key, error) from error
                data, failure = b"", error
            if data:
                self._take(data)
                return data
            self._continue_after(failure)
        return b""

    def _take(self, data: bytes) -> None:
        self._position += len(data)
        self._fruitless = 0
        self._deadline = time.monotonic() + self._patience_s
        if self._fingerprint is not None:
            self._fingerprint.update(data)
        # With the last bytes and not after them: some readers never ask for more.
        if self._position == self._end:
            self._check_whole()

    def _check_whole(self) -> None:
        """At the end, once."""
        fingerprint, self._fingerprint = self._fingerprint, None
        if fingerprint is None or fingerprint.agrees():
            return
        if self._read_again() != fingerprint.digest():
            why = "the bytes that came are not the object's: damaged on their way, or replaced"
            raise Damaged(self._uri, self._key, why)
        fields = {"key": self._key, "etag": self._etag}
        logger.debug("the ETag is no MD5 of the content; two readings agree", extra=fields)

    def _read_again(self) -> bytes:
        """The MD5 of another reading of the whole object."""
        again = hashlib.md5(usedforsecurity=False)
        body = ContinuedBody(
            lambda position: replace(self._fetch(position), sealed=False),
            0,
            uri=self._uri,
            key=self._key,
            patience_s=self._patience_s,
        )
        with body:
            while data := body.read(CHUNK_BYTES):
                again.update(data)
        return again.digest()

    def _continue_after(self, failure: BaseException | None) -> None:
        if time.monotonic() > self._deadline:
            why = f"the transfer breaks off at byte {self._position} again and again ({failure!r})"
            raise Unavailable(self._uri, self._key, why) from failure
        self._part.body.close()
        self._wait(failure)
        # No If-Match: stores differ on the quotes of the ETag. Comparing works with all.
        self._part = self._fetch(self._position)
        self._check_version(failure)

    def _check_version(self, failure: BaseException | None) -> None:
        if self._part.etag != self._etag:
            self._part.body.close()
            why = "the object was replaced while it was read; read it again"
            raise Unavailable(self._uri, self._key, why) from failure

    def _wait(self, failure: BaseException | None) -> None:
        """Wait before going on: not at all when bytes have come since the last time."""
        if self._fruitless:
            longest_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**self._fruitless)
            time.sleep(random.uniform(0, longest_s))  # noqa: S311 - jitter
        self._fruitless += 1
        fields = {"key": self._key, "position": self._position, "error": repr(failure)}
        logger.warning("a transfer broke off, continuing it", extra=fields)
