"""Text encoders: captions to the features of their tokens, (B, L, K). They are frozen.

Published ones are read through transformers. ``words`` stands in where no weights can be had.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selftrans.config import (
    PreparedTextConfig,
    PretrainedTextEncoderConfig,
    TextEncoderConfig,
    WordsEncoderConfig,
)
from selftrans.models.pretrained import LOCAL, check_tokenizer, read_network, reading
from selftrans.models.sit import sinusoids, timestep_frequencies
from selftrans.runtime.errors import UserError
from selftrans.runtime.tensors import digest_of

CPU = torch.device("cpu")
START, END = "<start>", "<end>"


class TextEncoder:
    """A frozen text encoder.

    Attributes:
        name: what it is called.
        digest: SHA-256 of all that decides its features.
        stand_in: whether it stands in for a published one.
        length: tokens L of a caption.
        size: length K of a token's features.
    """

    def __init__(
        self,
        name: str,
        digest: str,
        stand_in: bool,
        length: int,
        size: int,
        count_tokens: Callable[[Sequence[str]], list[int]],
        encode: Callable[[Sequence[str]], Tensor],
    ) -> None:
        self.name, self.digest, self.stand_in = name, digest, stand_in
        self.length, self.size = length, size
        self._count_tokens, self._encode = count_tokens, encode

    @torch.inference_mode()
    def __call__(self, captions: Sequence[str]) -> Tensor:
        """The features of captions, (B, L, K) in float32; the tokens behind the L-th are lost."""
        return self._encode(captions)

    def count_truncated(self, captions: Sequence[str]) -> int:
        """How many of the captions have more than L tokens."""
        return sum(count > self.length for count in self._count_tokens(captions))


def load_text_encoder(settings: TextEncoderConfig, device: torch.device = CPU) -> TextEncoder:
    """The text encoder of a data file.

    Raises:
        UserError: transformers or the weights are absent, or its features have another size.
    """
    if isinstance(settings, PreparedTextConfig):
        raise UserError(
            "text encoder: the features of captions were prepared elsewhere, by an encoder that"
            " nothing here names (--text-encoder, or `text_encoder.kind: pretrained`)"
        )
    if isinstance(settings, WordsEncoderConfig):
        return _words(settings, device)
    return _published(settings, device)


# -- the stand-in


def words_of(caption: str) -> list[str]:
    """The words and the marks of a caption, in lower case."""
    return re.findall(r"\w+|[^\w\s]", caption.lower())


def word_vector(word: str, size: int) -> Tensor:
    """A vector of N(0, 1) that is a function of the word, (K,)."""
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
    return torch.from_numpy(np.random.Generator(np.random.Philox(seed)).standard_normal(size))


def _words(settings: WordsEncoderConfig, device: torch.device) -> TextEncoder:
    """A fixed random vector for each word, and sinusoids of its place, both of variance 1."""
    length, size = settings.length, settings.size
    places = sinusoids(torch.arange(length).double(), timestep_frequencies(size // 2)) * 2**0.5
    known: dict[str, Tensor] = {}

    def count_tokens(captions: Sequence[str]) -> list[int]:
        return [len(words_of(caption)) + 2 for caption in captions]

    def encode(captions: Sequence[str]) -> Tensor:
        rows = []
        for caption in captions:
            words = [START, *words_of(caption), END, *[END] * length][:length]
            for word in words:
                if word not in known:
                    known[word] = word_vector(word, size)
            rows.append((torch.stack([known[word] for word in words]) + places) / 2**0.5)
        return torch.stack(rows).float().to(device)

    digest = hashlib.sha256(f"words 1 {length} {size}".encode()).hexdigest()
    return TextEncoder("words", digest, True, length, size, count_tokens, encode)


# -- published ones


def _published(settings: PretrainedTextEncoderConfig, device: torch.device) -> TextEncoder:
    path, length = settings.path, settings.length
    with reading("text encoder", path) as transformers:
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, **LOCAL)
        check_tokenizer(tokenizer)
        config = transformers.AutoConfig.from_pretrained(path, **LOCAL)
        kinds: dict[str, Any] = {
            "clip": transformers.CLIPTextModel,
            "t5": transformers.T5EncoderModel,
            "mt5": transformers.MT5EncoderModel,
            "umt5": transformers.UMT5EncoderModel,
        }
        if config.is_encoder_decoder and config.model_type not in kinds:
            raise UserError(
                f"text encoder {path!r}: {config.model_type!r} writes text"
                f" (allowed: {', '.join(kinds)}, or an encoder alone)"
            )
        network = read_network(kinds.get(config.model_type, transformers.AutoModel), path)
        network.to(device)
    # Stable Diffusion and U-ViT give CLIP no mask: it is causal, and what stands behind a caption's
    # end is a part of their condition.
    given = ["input_ids"]
    if not config.model_type.startswith("clip"):
        given.append("attention_mask")
    # Of some tokenizers the real length is unknown, a huge number; of others it is too small.
    if length > tokenizer.model_max_length:
        raise UserError(
            f"text encoder {path!r}: length: {length} is beyond its {tokenizer.model_max_length}"
            " tokens"
        )

    def count_tokens(captions: Sequence[str]) -> list[int]:
        tokens = tokenizer(list(captions), truncation=False, verbose=False)["input_ids"]
        return [len(one) for one in tokens]

    def encode(captions: Sequence[str]) -> Tensor:
        tokens = tokenizer(
            list(captions),
            truncation=True,
            max_length=length,
            padding="max_length",
            return_tensors="pt",
        ).to(device)
        features: Tensor = network(**{key: tokens[key] for key in given}).last_hidden_state
        return features.float()

    with reading("text encoder", path), torch.inference_mode():
        size = encode([""]).shape[-1]
    if size != settings.size:
        raise UserError(
            f"text encoder {path!r}: size: its features have {size} elements, the data file says"
            f" {settings.size}"
        )
    names = tokenizer.get_vocab()
    tokens_digest = hashlib.sha256(repr(sorted(names.items())).encode()).hexdigest()
    text = f"{digest_of(network.state_dict())} {tokens_digest} {length}"
    digest = hashlib.sha256(text.encode()).hexdigest()
    return TextEncoder(Path(path).name, digest, False, length, size, count_tokens, encode)
