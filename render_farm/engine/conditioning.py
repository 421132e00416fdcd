"""Prompts to embeddings: each distinct text is encoded once, in batches of one fixed shape."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from render_farm.engine.batches import VECTOR, padded
from render_farm.engine.device import device_failure
from render_farm.job.request import RenderRequest

ENCODE_BATCH = 8
"""Texts an encoder takes at once, always: the batch decides the last bits of an embedding."""

CACHE_BYTES = 256 * 2**20


class Text(NamedTuple):
    """A text in its role. Only a prompt skips layers of the encoder, a negative one does not."""

    text: str
    negative: bool


@dataclass(frozen=True, slots=True)
class Embedding:
    """What the denoiser is told: `hidden` [tokens, channels] and, for SDXL, `pooled` [channels]."""

    hidden: torch.Tensor
    pooled: torch.Tensor | None

    @property
    def size_bytes(self) -> int:
        """Memory that the tensors take."""
        pooled = 0 if self.pooled is None else self.pooled.nbytes
        return self.hidden.nbytes + pooled


def is_guided(request: RenderRequest) -> bool:
    """Whether classifier-free guidance is at work, so that a forward takes two lanes."""
    return request.guidance_scale > 1


def texts_of(request: RenderRequest) -> tuple[Text, ...]:
    """The texts that a request's lanes are conditioned on: the prompt first."""
    prompt = Text(request.prompt, negative=False)
    if not is_guided(request):
        return (prompt,)
    return prompt, Text(request.negative_prompt, negative=True)


class PromptEncoder:
    """Encodes with a Stable Diffusion pipeline's own text encoders, and remembers the results.

    Memory is bounded: what was used longest ago is forgotten once `cache_bytes` are held.
    """

    def __init__(
        self,
        pipeline: Any,
        device: torch.device,
        clip_skip: int | None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self._pipeline = pipeline
        self._device = device
        self._clip_skip = clip_skip
        self._cache_bytes = cache_bytes
        self._held = 0
        self._known: OrderedDict[Text, Embedding] = OrderedDict()
        self._at_once = _texts_at_once(pipeline)
        # SDXL stands zeros for a negative prompt that is not there
        self._zeros = bool(pipeline.config.get("force_zeros_for_empty_prompt"))

    def knows(self, text: Text) -> bool:
        """Whether the text is remembered."""
        return text in self._known

    def get(self, text: Text, upcoming: Iterable[Text] = ()) -> Embedding:
        """The embedding of a text; those of `upcoming` texts are made along, as far as it is free.

        Raises: whatever tokenizer and encoder raise at this text.
        """
        if text not in self._known:
            more = dict.fromkeys(each for each in upcoming if self._goes_with(text, each))
            batch = [text, *more][: self._at_once]
            try:
                embeddings = self._encode(batch)
            except Exception as error:  # the row's own, or of one that came along
                if len(batch) == 1 or device_failure(error, ENCODE_BATCH) is not None:
                    raise
                batch = [text]
                embeddings = self._encode(batch)
            for each, embedding in zip(batch, embeddings, strict=True):
                self._remember(each, embedding)
        self._known.move_to_end(text)
        return self._known[text]

    def _goes_with(self, text: Text, other: Text) -> bool:
        """Whether `other` is still to be encoded and can share a batch with `text`."""
        if other == text or other in self._known:
            return False
        if self._is_zeros(text) or self._is_zeros(other):
            return False
        return self._clip_skip is None or other.negative == text.negative

    def _is_zeros(self, text: Text) -> bool:
        return self._zeros and text.negative and not text.text

    def _encode(self, batch: Sequence[Text]) -> list[Embedding]:
        hidden, pooled = self._call([each.text for each in batch], batch[0].negative)
        if self._is_zeros(batch[0]):
            hidden = torch.zeros_like(hidden)
            pooled = None if pooled is None else torch.zeros_like(pooled)
        return [
            # clones, because a slice would keep the whole batch in memory
            Embedding(hidden[lane].clone(), None if pooled is None else pooled[lane].clone())
            for lane in range(len(batch))
        ]

    def _call(self, texts: Sequence[str], negative: bool) -> tuple[torch.Tensor, Any]:
        """Hidden states [ENCODE_BATCH, tokens, channels] and, for SDXL, pooled ones."""
        answer = self._pipeline.encode_prompt(
            prompt=padded(texts, ENCODE_BATCH),
            device=self._device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
            clip_skip=None if negative else self._clip_skip,
        )
        return (answer[0], answer[2]) if len(answer) == 4 else (answer[0], None)

    def _remember(self, text: Text, embedding: Embedding) -> None:
        self._known[text] = embedding
        self._held += embedding.size_bytes
        while self._held > self._cache_bytes and len(self._known) > ENCODE_BATCH:
            _, forgotten = self._known.popitem(last=False)
            self._held -= forgotten.size_bytes


def _texts_at_once(pipeline: Any) -> int:
    """How many texts a batch has beside its padding; see `VECTOR`. All but for odd widths."""
    for name in ("text_encoder", "text_encoder_2"):
        encoder = getattr(pipeline, name, None)
        if encoder is not None:
            numbers = ENCODE_BATCH * pipeline.tokenizer.model_max_length
            widths = encoder.config.hidden_size, encoder.config.intermediate_size
            if any(numbers * width % VECTOR for width in widths):
                return ENCODE_BATCH - 1
    return ENCODE_BATCH
