"""The one error for bytes of a result that cannot be read back."""

from __future__ import annotations

from render_farm.errors import RenderFarmError


class CorruptFile(RenderFarmError):
    """Bytes of a result are truncated, altered, or not what their name says.

    `name` is the file, member or sample concerned, `message` what is wrong with it.
    """

    def __init__(self, name: str, message: str) -> None:
        super().__init__(name, message)
        self.name = name
        self.message = message

    def __str__(self) -> str:
        return f"{self.name}: {self.message}"
