"""A CLIP tokenizer made in code: the published number of tokens, and merges for a few words."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
END_OF_WORD = "</w>"


def make_tokenizer(words: Iterable[str], size: int, length: int, pad: str = END) -> CLIPTokenizer:
    """A tokenizer of `size` tokens, which cuts at `length`; the two markers have the last ids.

    Every byte is a token, inside a word and at its end, so that no text fails; the beginnings of
    `words` are tokens too, so that most of them are one; the rest is filled up.

    Raises: `ValueError` when `size` is too small for them.
    """
    merges = list(dict.fromkeys(itertools.chain.from_iterable(map(_chain, sorted(set(words))))))
    letters = _byte_letters()
    pieces = [*letters, *(f"{letter}{END_OF_WORD}" for letter in letters)]
    pieces = list(dict.fromkeys([*pieces, *(left + right for left, right in merges)]))
    free = size - len(pieces) - 2
    if free < 0:
        raise ValueError(f"size: {size} (allowed: {len(pieces) + 2} or more)")
    pieces += [*(f"<|unused {number}|>" for number in range(free)), START, END]
    return CLIPTokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)},
        merges=merges,  # type: ignore[arg-type]  # pairs are what the tokenizer takes
        pad_token=pad,
        model_max_length=length,
    )


def _chain(word: str) -> Iterable[tuple[str, str]]:
    """Merges that build a word letter by letter from its beginning."""
    letters = [*word[:-1], word[-1] + END_OF_WORD]
    beginnings = itertools.accumulate(letters[:-1])
    return zip(beginnings, letters[1:], strict=True)


def _byte_letters() -> list[str]:
    """The 256 letters that stand for bytes in byte-level BPE (Radford et al. 2019, GPT-2)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    shifted = itertools.count(256)
    return [chr(byte if byte in printable else next(shifted)) for byte in range(256)]
