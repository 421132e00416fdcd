"""Whether the bytes of an object arrived as they were stored: its ETag, held against them.

The ETag of an object that was written at once is its MD5; of one that was written in parts it is
the MD5 of the parts' MD5s and their number, ``<md5>-<parts>``. The size of the parts is not told,
but nearly everybody chooses a whole number of MiB, and the last part alone is shorter.
"""

from __future__ import annotations

import base64
import hashlib
import re

MIB = 1 << 20
MOST_SIZES = 4
USUAL_PART_SIZES_MIB = (8, 16, 64, 5, 15, 32, 50, 100, 128)
"""Of the AWS command line and boto3, of ourselves, MinIO's, rclone's, s3cmd's, …"""

ETAG = re.compile(r'"?(?P<md5>[0-9a-f]{32})(?:-(?P<parts>[1-9][0-9]{0,4}))?"?')


class Fingerprint:
    """Takes an object's bytes as they come, and says at the end whether its ETag is theirs.

    An ETag of another form never is, nor is the MD5 of what a store encrypts with foreign keys:
    that the ETag is not theirs means that the bytes are in doubt, not that they are wrong.
    """

    def __init__(self, etag: str, size_bytes: int) -> None:
        match = ETAG.fullmatch(etag)
        self._wanted = match["md5"] if match else ""
        parts = int(match["parts"] or 0) if match else 0
        self._whole = hashlib.md5(usedforsecurity=False)
        self._in_parts = [_InParts(size) for size in _part_sizes(size_bytes, parts)]
        self._of_parts = parts > 0

    def update(self, data: bytes) -> None:
        """Take the next bytes."""
        self._whole.update(data)
        for candidate in self._in_parts:
            candidate.update(data)

    def agrees(self) -> bool:
        """Whether the ETag is that of the bytes taken."""
        if self._of_parts:
            return any(candidate.hexdigest() == self._wanted for candidate in self._in_parts)
        return self._whole.hexdigest() == self._wanted

    def digest(self) -> bytes:
        """The MD5 of the bytes taken, by which two readings are compared."""
        return self._whole.digest()


class _InParts:
    """The MD5 of the MD5s of parts of one size."""

    def __init__(self, part_bytes: int) -> None:
        self._part_bytes = part_bytes
        self._part = hashlib.md5(usedforsecurity=False)
        self._room = part_bytes
        self._digests = b""

    def update(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            self._part.update(rest[: self._room])
            taken = min(self._room, len(rest))
            rest, self._room = rest[taken:], self._room - taken
            if not self._room:
                self._end_part()

    def hexdigest(self) -> str:
        if self._room < self._part_bytes:
            self._end_part()
        return hashlib.md5(self._digests, usedforsecurity=False).hexdigest()

    def _end_part(self) -> None:
        self._digests += self._part.digest()
        self._part = hashlib.md5(usedforsecurity=False)
        self._room = self._part_bytes


def content_md5(data: bytes) -> str:
    """By which a store refuses a body that was damaged on its way; old, but all stores know it."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def _part_sizes(size_bytes: int, parts: int) -> list[int]:
    """The likeliest sizes of the parts of an object, in bytes, a few at most."""
    if parts == 0:
        return []
    if parts == 1:
        return [max(size_bytes, 1)]
    least = -(-size_bytes // parts)
    sizes = [size * MIB for size in USUAL_PART_SIZES_MIB]
    sizes.append(-(-least // MIB) * MIB)  # what a tool takes that grows with the object
    fitting = [size for size in sizes if size >= least and size * (parts - 1) < size_bytes]
    return list(dict.fromkeys(fitting))[:MOST_SIZES]
