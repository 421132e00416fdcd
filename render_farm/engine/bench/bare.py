"""Keeps boto3 out of a process that measures."""

from __future__ import annotations

import importlib
import sys
from typing import Any


def import_without_boto3(library: str = "accelerate") -> None:
    """Import a library as where boto3 is not installed, unless boto3 is imported already.

    accelerate imports it for a dialogue about SageMaker wherever it finds it. A benchmark shall be
    the same on a bare machine and on one that has all of the farm. To be called before diffusers is
    imported, which imports accelerate.
    """
    if "boto3" in sys.modules:
        return
    modules: dict[str, Any] = sys.modules
    modules["boto3"] = None  # the import system's own sign for a module that is not to be found
    try:
        importlib.import_module(library)
    finally:
        del modules["boto3"]
