"""Counts the tokens of a prompt that no text encoder of a pipeline sees."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any


class TokenCounter:
    """Knows the tokenizers of a diffusers pipeline and how many tokens each encoder takes."""

    def __init__(self, pipeline: Any) -> None:
        self._tokenizers = tuple(_tokenizers(pipeline))

    def cut(self, prompt: str) -> int:
        """Tokens of the prompt that no text encoder saw: the fewest that a tokenizer cuts."""
        return min(
            (
                max(0, len(tokenizer(prompt).input_ids) - length)
                for tokenizer, length in self._tokenizers
            ),
            default=0,
        )


def _tokenizers(pipeline: Any) -> Iterator[tuple[Any, int]]:
    """The pipeline's tokenizers, each with the number of tokens that its encoder takes."""
    parameters = inspect.signature(pipeline.__call__).parameters
    asked = parameters.get("max_sequence_length")
    most = asked.default if asked is not None and isinstance(asked.default, int) else None
    for name in ("tokenizer", "tokenizer_2", "tokenizer_3"):
        tokenizer = getattr(pipeline, name, None)
        if tokenizer is not None:
            length = tokenizer.model_max_length
            yield tokenizer, length if most is None else min(length, most)
