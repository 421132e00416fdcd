"""The command in this process, as the tests of the command run it."""

from tests.cli.conftest import farm

__all__ = ["farm"]
