"""The tokenizer made in code."""

from __future__ import annotations

import pytest

from render_farm.engine.bench.tokenizer import make_tokenizer

WORDS = ("star", "start", "red")


def test_it_has_the_size_asked_for_and_the_markers_last():
    tokenizer = make_tokenizer(WORDS, size=49408, length=77)
    assert len(tokenizer) == 49408
    ids = tokenizer("red").input_ids
    assert (ids[0], ids[-1]) == (49406, 49407)


def test_its_words_are_one_token_each_and_other_text_is_bytes():
    tokenizer = make_tokenizer(WORDS, size=1000, length=77)
    assert len(tokenizer("red star start").input_ids) == 3 + 2
    assert len(tokenizer("zzz").input_ids) == 3 + 2
    assert tokenizer.decode(tokenizer("red star").input_ids, skip_special_tokens=True) == "red star"


def test_it_pads_with_the_token_asked_for_to_its_length():
    tokenizer = make_tokenizer(WORDS, size=1000, length=7, pad="!")
    ids = tokenizer("red", padding="max_length").input_ids
    assert ids[3:] == [tokenizer.convert_tokens_to_ids("!")] * 4


def test_a_size_without_room_for_the_words_is_refused():
    with pytest.raises(ValueError, match="or more"):
        make_tokenizer(WORDS, size=100, length=77)
