"""The text side: a CLIP tokenizer of this grammar and a CLIP text model of 0.15M weights.

Every word of the grammar is one token; other text falls back to bytes, so that no prompt fails.
"""

import itertools
from collections import Counter

import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from jobs.scenes import world

MAX_TOKENS = 16
END_OF_WORD = "</w>"
EMBEDDING_STD = 0.2  # ten times CLIP's: words must differ from the first step on


def grammar() -> list[str]:
    """All words of the world's sentences, sorted."""
    sentences = [*world.PLACES, *world.COLOURS, *world.SHAPES, *world.SIZES, "a on background"]
    return sorted(set(" ".join(sentences).split()))


def new_tokenizer() -> CLIPTokenizer:
    """A tokenizer with one token a word of the grammar, and a token a byte for the rest.

    The vocabulary holds every byte, inside a word and at its end, and the merges of the grammar.
    """
    merges = _merges(grammar())
    letters = sorted(_byte_letters())
    pieces = [
        *letters,
        *(letter + END_OF_WORD for letter in letters),
        *(left + right for left, right in merges),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,  # type: ignore[arg-type]  # pairs are what the tokenizer takes
        model_max_length=MAX_TOKENS,
    )


def _merges(words: list[str]) -> list[tuple[str, str]]:
    """The merges of byte-pair encoding that make each word one piece (Sennrich et al. 2016).

    Equal counts are decided by the alphabet; the tokenizers library decides them anew each run.
    """
    split = [[*word[:-1], word[-1] + END_OF_WORD] for word in words]
    merges: list[tuple[str, str]] = []
    while counts := Counter(pair for pieces in split for pair in itertools.pairwise(pieces)):
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        for pieces in split:
            for i in range(len(pieces) - 2, -1, -1):
                if tuple(pieces[i : i + 2]) == best:
                    pieces[i : i + 2] = ["".join(best)]
    return merges


def _byte_letters() -> list[str]:
    """The 256 letters that stand for bytes in byte-level BPE (Radford et al. 2019, GPT-2)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    shifted = itertools.count(256)
    return [chr(byte if byte in printable else next(shifted)) for byte in range(256)]


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A fresh text model, 64 wide with two layers, for the tokenizer's vocabulary."""
    model = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=256,
            projection_dim=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    for name, weight in model.named_parameters():
        if name.endswith("embedding.weight"):
            torch.nn.init.normal_(weight, std=EMBEDDING_STD)
    return model


def tokenize(tokenizer: CLIPTokenizer, prompts: list[str]) -> Tensor:
    """Token ids as Stable Diffusion pads them, int64 [N, 16]."""
    ids: Tensor = tokenizer(
        prompts, padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
    ).input_ids
    return ids
