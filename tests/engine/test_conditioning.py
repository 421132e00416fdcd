"""Each text is encoded once, in batches of one shape, and is always the same embedding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from render_farm.engine.conditioning import (
    CACHE_BYTES,
    ENCODE_BATCH,
    PromptEncoder,
    Text,
    is_guided,
    texts_of,
)
from render_farm.engine.model import LoadedPipeline
from render_farm.engine.steps import StepSampler
from tests.engine.conftest import REQUEST, pixels_of

NO_TEXT = Text("\ud800", negative=False)


class Counted:
    """A pipeline that remembers what its encoder was asked for."""

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline
        self.calls: list[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipeline, name)

    def __call__(self) -> None: ...

    def encode_prompt(self, prompt: list[str], **more: Any) -> Any:
        self.calls.append(prompt)
        return self._pipeline.encode_prompt(prompt=prompt, **more)

    @property
    def encoded(self) -> list[str]:
        """Every text, as often as it was encoded; what only pads a batch is left out."""
        return [text for call in self.calls for text in dict.fromkeys(call)]


@pytest.fixture
def counted(sd15: LoadedPipeline) -> Counted:
    return Counted(sd15.pipeline)


def encoder(
    pipeline: Any, clip_skip: int | None = None, cache_bytes: int = CACHE_BYTES
) -> PromptEncoder:
    return PromptEncoder(pipeline, torch.device("cpu"), clip_skip, cache_bytes)


def prompts(*texts: str) -> list[Text]:
    return [Text(text, negative=False) for text in texts]


def equal(one: Any, other: Any) -> bool:
    assert (one.pooled is None) == (other.pooled is None)
    pooled = one.pooled is None or torch.equal(one.pooled, other.pooled)
    return pooled and torch.equal(one.hidden, other.hidden)


def test_each_distinct_text_is_encoded_once(counted):
    texts = prompts("a", "b", "a", "c", "b", "a")
    encoding = encoder(counted)
    got = [encoding.get(text) for text in texts]
    assert counted.encoded == ["a", "b", "c"]
    assert equal(got[0], got[2])
    assert not equal(got[0], got[1])


def test_texts_to_come_are_encoded_along_as_far_as_there_is_room(stepped):
    counted = Counted(stepped.pipeline)
    texts = prompts(*"abcdefghijk")
    encoding = encoder(counted)
    for position, text in enumerate(texts):
        encoding.get(text, texts[position:])
    assert counted.calls == [list("abcdefgh"), [*"ijk", *"kkkkk"]]


def test_the_encoder_always_takes_a_full_batch(counted):
    encoding = encoder(counted)
    encoding.get(Text("a", negative=False))
    encoding.get(Text("b", negative=True), prompts("c"))
    assert {len(call) for call in counted.calls} == {ENCODE_BATCH}


def test_an_embedding_does_not_depend_on_what_was_encoded_along(sd15, sdxl):
    for loaded in (sd15, sdxl):
        texts = prompts("a long one " * 3, *(f"number {n}" for n in range(40)))
        one, other = encoder(loaded.pipeline), encoder(loaded.pipeline)
        for position, text in enumerate(texts):
            alone, along = one.get(text), other.get(text, texts[position:])
            assert equal(alone, along), text


def test_a_renderer_encodes_each_text_once_and_few_times(load_model):
    loaded = load_model("demo")
    counted = Counted(loaded.pipeline)
    sampler = StepSampler(replace(loaded, pipeline=counted))
    rows = [
        replace(
            REQUEST,
            row=row,
            width=16,
            height=16,
            prompt=f"prompt {row % 5}",
            negative_prompt=f"negative {row % 2}",
        )
        for row in range(20)
    ]
    pixels_of(sampler.render(rows, 4))
    pixels_of(sampler.render(rows[::-1], 4))
    texts = {f"prompt {n}" for n in range(5)} | {"negative 0", "negative 1"}
    assert sorted(text for text in counted.encoded if text) == sorted(texts)
    assert len(counted.calls) <= 3


def test_what_is_held_is_bounded_and_what_was_forgotten_is_the_same_again(counted):
    encoding = encoder(counted, cache_bytes=1)
    texts = prompts(*(f"number {n}" for n in range(3 * ENCODE_BATCH)))
    before = [encoding.get(text) for text in texts]
    known = [text for text in texts if encoding.knows(text)]
    assert known == texts[-ENCODE_BATCH:]
    assert all(equal(encoding.get(text), old) for text, old in zip(texts, before, strict=True))
    assert len(counted.encoded) == 2 * len(texts)


def test_what_was_used_longest_ago_is_forgotten_first(counted):
    encoding = encoder(counted, cache_bytes=1)
    texts = prompts(*"abcdefgh")
    for text in [*texts, texts[0]]:
        encoding.get(text)
    encoding.get(Text("i", negative=False))
    assert encoding.knows(texts[0])
    assert not encoding.knows(texts[1])


def test_all_that_fits_is_kept(counted):
    size = encoder(counted).get(Text("a", negative=False)).size_bytes
    encoding = encoder(counted, cache_bytes=20 * size)
    texts = prompts(*(f"number {n}" for n in range(25)))
    for text in texts:
        encoding.get(text)
    assert [text for text in texts if encoding.knows(text)] == texts[5:]


def test_a_kept_embedding_keeps_nothing_else_in_memory(sdxl):
    embedding = encoder(sdxl.pipeline).get(Text("a", negative=False))
    for tensor in (embedding.hidden, embedding.pooled):
        assert tensor.untyped_storage().nbytes() == tensor.nbytes
    assert embedding.size_bytes == embedding.hidden.nbytes + embedding.pooled.nbytes


def test_a_text_at_fault_does_not_spoil_those_beside_it(counted):
    encoding = encoder(counted)
    good = Text("good", negative=False)
    embedding = encoding.get(good, [NO_TEXT])
    assert equal(embedding, encoder(counted).get(good))
    with pytest.raises((TypeError, ValueError)):
        encoding.get(NO_TEXT, [good])
    assert not encoding.knows(NO_TEXT)


@pytest.mark.parametrize("model", ["sd15", "sdxl"])
def test_only_prompts_skip_layers(load_model, model):
    plain = encoder(load_model(model).pipeline)
    skipping = encoder(load_model(model, clip_skip=1).pipeline, clip_skip=1)
    prompt, negative = Text("a cat", negative=False), Text("a cat", negative=True)
    assert equal(skipping.get(negative, [prompt]), plain.get(negative))
    assert not torch.equal(skipping.get(prompt, [negative]).hidden, plain.get(prompt).hidden)


def test_prompts_and_negative_prompts_share_a_batch_where_no_layers_are_skipped(counted):
    encoding = encoder(counted)
    encoding.get(Text("a", negative=False), [Text("b", negative=True)])
    assert encoding.knows(Text("b", negative=True))


def test_a_negative_prompt_that_is_not_there_is_zeros_for_sdxl_alone(sd15, sdxl):
    nothing, empty = Text("", negative=True), Text("", negative=False)
    other = Text("a", negative=True)
    zeros = encoder(sdxl.pipeline)
    first = zeros.get(nothing, [empty, other])
    assert not first.hidden.any()
    assert not first.pooled.any()
    for text in (empty, other):
        assert zeros.get(text, [nothing]).hidden.any()
        assert zeros.get(text).pooled.any()
    alike = encoder(sd15.pipeline)
    assert equal(alike.get(nothing), alike.get(empty))
    assert alike.get(nothing).hidden.any()


def test_embeddings_have_the_shapes_of_the_model(sd15, sdxl):
    text = Text("a", negative=False)
    one, other = encoder(sd15.pipeline).get(text), encoder(sdxl.pipeline).get(text)
    assert one.hidden.shape == (77, 32)
    assert one.pooled is None
    assert other.hidden.shape == (77, 64)
    assert other.pooled.shape == (32,)


@pytest.mark.parametrize(("guidance", "guided"), [(0, False), (1.0, False), (1.01, True)])
def test_only_a_guided_request_has_a_negative_text(guidance, guided):
    request = replace(REQUEST, prompt="a", negative_prompt="b", guidance_scale=guidance)
    assert is_guided(request) is guided
    expected = [Text("a", negative=False), Text("b", negative=True)]
    assert list(texts_of(request)) == expected[: 1 + guided]
