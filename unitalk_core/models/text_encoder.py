"""Finished prompts become context: rows of features, zero beyond the text.

- `PhonemeEncoder`: the miniature's; token ids -> residual convolutions, trained with the joint model;
- `UMT5Encoder`: the one of Wan2.2 and Ovi, through transformers, with Wan's cleaning and padding.
"""

# b batch · len tokens · dim width

from __future__ import annotations

import html
import logging
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from .markup import without_weights
from .phonemes import (
    IDS,
    PAD,
    PHONES,
    SPEECH,
    VOCABULARY,
    prompt_ids,
    token_weights,
    vocabulary_hash,
    vocabulary_size,
)
from .stored import StoredConfig

log = logging.getLogger("unitalk")

Tokenize = Callable[[str], list[int]]

STRESSED = frozenset(phone for phone in PHONES if phone[-1].isdigit())
BASE = [
    IDS[token[:-1] + "0"] if token in STRESSED else i for i, token in enumerate(VOCABULARY)
]  # id of the vowel
STRESS = [1 + int(token[-1]) if token in STRESSED else 0 for token in VOCABULARY]  # 0 = no vowel


@dataclass(frozen=True, kw_only=True)
class PhonemeConfig(StoredConfig):
    """Size of the miniature's text encoder, and the vocabulary it was trained with."""

    dim: int = 192
    text_len: int = 112
    depth: int = 3
    kernel: int = 5
    vocabulary: str = ""  # hash; "" = this version's

    def __post_init__(self) -> None:
        if self.dim % 2 or self.kernel % 2 == 0:
            raise ValueError(f"dim must be even and kernel odd, got {self.dim} and {self.kernel}")
        if self.vocabulary and vocabulary_size(self.vocabulary) is None:
            here = vocabulary_hash()
            raise ValueError(f"the text encoder needs vocabulary {self.vocabulary}, this version has {here}")

    @property
    def tokens(self) -> int:
        """How many it knows; a vocabulary that grew since has more."""
        return vocabulary_size(self.vocabulary) if self.vocabulary else len(VOCABULARY)

    def to_json(self) -> dict[str, Any]:
        return super().to_json() | {"vocabulary": self.vocabulary or vocabulary_hash()}


class ConvBlock(nn.Module):
    """Residual: LayerNorm -> convolution over time -> GELU -> Linear. (b, len, dim) -> the same."""

    def __init__(self, dim: int, kernel: int, ops: Any) -> None:
        super().__init__()
        self.norm = ops.LayerNorm(dim)
        self.conv = ops.Conv1d(dim, dim, kernel, padding=kernel // 2)
        self.out = ops.Linear(dim, dim)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        hidden = rearrange(self.norm(tokens) * mask, "b n d -> b d n")
        hidden = rearrange(self.conv(hidden), "b d n -> b n d")
        return tokens + self.out(nn.functional.gelu(hidden))


class PhonemeEncoder(nn.Module):
    """Token ids (b, len), PAD = 0 at the end -> context (b, len, dim), zero rows where PAD stands.

    A vowel's embedding is the sum of the vowel's and its stress's: rare pairs learn from frequent ones.
    A caption word that is younger than the weights is a zero row too.
    """

    def __init__(self, config: PhonemeConfig | None = None, ops: Any = nn) -> None:
        super().__init__()
        self.config = config = config or PhonemeConfig()
        self.embedding = ops.Embedding(config.tokens, config.dim)
        self.stress = ops.Embedding(4, config.dim)  # no vowel, unstressed, primary, secondary
        self.blocks = nn.ModuleList(ConvBlock(config.dim, config.kernel, ops) for _ in range(config.depth))
        self.norm = ops.LayerNorm(config.dim)
        for table in (self.embedding, self.stress):
            nn.init.normal_(table.weight, std=0.5)

    @property
    def dim(self) -> int:
        return self.config.dim

    def forward(self, ids: Tensor) -> Tensor:
        ids = ids.masked_fill(ids >= self.config.tokens, IDS[PAD])
        mask = (ids != IDS[PAD]).unsqueeze(-1)
        base, stress = (torch.tensor(table, device=ids.device)[ids] for table in (BASE, STRESS))
        tokens = self.embedding(base) + self.stress(stress)
        mask = mask.to(tokens.dtype)
        tokens = tokens + sinusoid(speech_positions(ids), self.dim).to(tokens)
        for block in self.blocks:
            tokens = block(tokens, mask)
        return self.norm(tokens) * mask

    def tokenize(self, texts: list[str]) -> Tensor:
        """Finished prompts -> ids (b, text_len), PAD at the end; ValueError if too long or not speakable."""
        ids = torch.full((len(texts), self.config.text_len), IDS[PAD])
        for row, text in zip(ids, texts, strict=True):
            found = torch.tensor(prompt_ids(text, self.config.text_len), dtype=torch.long)
            row[: len(found)] = found
        if young := sorted({VOCABULARY[i] for i in ids.unique().tolist() if i >= self.config.tokens}):
            log.warning("left out, because these weights do not know it: %s", " ".join(young))
        return ids

    def encode(self, texts: list[str]) -> Tensor:
        """Finished prompts -> context (b, text_len, dim). An empty one is all zeros: guidance's null text.

        The features of a weighted stretch, `(word:1.2)`, are scaled: from the null text to it and beyond.
        """
        context = self(
            self.tokenize([without_weights(text) for text in texts]).to(self.embedding.weight.device)
        )
        weights = torch.ones(context.shape[:2])
        for row, text in zip(weights, texts, strict=True):
            found = token_weights(text)
            row[: len(found)] = torch.tensor(found)
        return context * weights.to(context).unsqueeze(-1)


def speech_positions(ids: Tensor) -> Tensor:
    """(b, len): tokens counted from <S>, so that a speech is the same whatever scene stands before it."""
    start = (ids == IDS[SPEECH]).int().argmax(dim=1, keepdim=True)
    return torch.arange(ids.shape[1], device=ids.device) - start


def sinusoid(positions: Tensor, dim: int) -> Tensor:
    """(b, len) -> (b, len, dim): sines and cosines, periods from 2 pi to 10000 * 2 pi tokens."""
    rates = torch.exp(torch.arange(0, dim, 2, device=positions.device) * (-math.log(10000.0) / dim))
    angles = positions.unsqueeze(-1) * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def clean_text(text: str) -> str:
    """Wan's cleaning: encodings and full-width forms repaired, HTML entities resolved, single spaces."""
    import ftfy

    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", text.strip()).strip()


@dataclass(frozen=True, kw_only=True)
class UMT5Config:
    """An encoder of the UMT5 family; the defaults are UMT5-XXL."""

    vocabulary: int = 256384
    dim: int = 4096
    attention_dim: int = 4096
    ffn_width: int = 10240
    heads: int = 64
    depth: int = 24
    buckets: int = 32
    max_distance: int = 128
    text_len: int = 512

    def __post_init__(self) -> None:
        if self.attention_dim % self.heads:
            raise ValueError(f"attention width {self.attention_dim} does not split into {self.heads} heads")

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], text_len: int = 512) -> UMT5Config:
        """Sizes read from weights with transformers names; ValueError if they are no UMT5 encoder."""
        first = "encoder.block.0.layer."
        needed = {
            "embedding": "shared.weight",
            "query": f"{first}0.SelfAttention.q.weight",
            "bias": f"{first}0.SelfAttention.relative_attention_bias.weight",
            "gate": f"{first}1.DenseReluDense.wi_0.weight",
        }
        missing = [name for name in needed.values() if name not in tensors]
        if missing:
            raise ValueError(f"these weights are no UMT5 encoder: {', '.join(missing)} is missing")
        shape = {part: tuple(tensors[name].shape) for part, name in needed.items()}
        depth = 1 + max(int(m[1]) for name in tensors if (m := re.match(r"encoder\.block\.(\d+)\.", name)))
        return cls(
            vocabulary=shape["embedding"][0],
            dim=shape["embedding"][1],
            attention_dim=shape["query"][0],
            ffn_width=shape["gate"][0],
            heads=shape["bias"][1],
            depth=depth,
            buckets=shape["bias"][0],
            text_len=text_len,
        )


class UMT5Encoder(nn.Module):
    """UMT5 as Wan2.2 uses it: one position table per layer, gated GELU, no biases. Names of transformers.

    tokenize: cleaned text -> ids, the last one EOS (from `sentencepiece_tokenizer` or `folder_tokenizer`).
    """

    def __init__(self, config: UMT5Config, tokenize: Tokenize | None = None) -> None:
        super().__init__()
        from transformers import UMT5EncoderModel

        model = UMT5EncoderModel(_transformers_config(config))
        self.config = config
        self.tokenize = tokenize
        self.shared = model.shared
        self.encoder = model.encoder
        self.encoder.embed_tokens = None  # the same tensor as `shared`, which files carry once

    @property
    def dim(self) -> int:
        return self.config.dim

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids, mask (b, len), mask 1 = text -> features (b, len, dim)"""
        return self.encoder(inputs_embeds=self.shared(ids), attention_mask=mask).last_hidden_state

    def encode(self, texts: list[str]) -> Tensor:
        """Texts -> context (b, text_len, dim), zero rows beyond each text; cut at `text_len` tokens."""
        if self.tokenize is None:
            raise ValueError(
                "this UMT5 has no tokenizer; load a file with spiece_model or name a tokenizer folder"
            )
        rows = [_with_end(self.tokenize(clean_text(text)), self.config.text_len) for text in texts]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        ids, mask = (one.to(self.shared.weight.device) for one in (ids, mask))
        context = self(ids, mask) * mask.unsqueeze(-1)
        return nn.functional.pad(context, (0, 0, 0, self.config.text_len - longest))


def _with_end(ids: list[int], limit: int, end: int = 1) -> list[int]:
    """At most `limit` ids, the last one EOS, as the reference tokenizer truncates."""
    return ids if len(ids) <= limit else [*ids[: limit - 1], end]


def _transformers_config(config: UMT5Config) -> Any:
    from transformers import UMT5Config as Config

    return Config(
        vocab_size=config.vocabulary,
        d_model=config.dim,
        d_kv=config.attention_dim // config.heads,
        d_ff=config.ffn_width,
        num_heads=config.heads,
        num_layers=config.depth,
        relative_attention_num_buckets=config.buckets,
        relative_attention_max_distance=config.max_distance,
        feed_forward_proj="gated-gelu",
        layer_norm_epsilon=1e-6,
        dropout_rate=0.0,
        is_encoder_decoder=False,
        use_cache=False,
    )


def sentencepiece_tokenizer(model: bytes | Tensor) -> Tokenize:
    """Tokenizer from the bytes of a SentencePiece model (ComfyUI's files carry them as U8 `spiece_model`)."""
    import sentencepiece

    data = model.cpu().numpy().tobytes() if isinstance(model, Tensor) else model
    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=data)
    except RuntimeError as error:
        raise ValueError(f"the tokenizer of {len(data)} bytes is no SentencePiece model: {error}") from error
    return lambda text: [*processor.encode(text), processor.eos_id()]


def folder_tokenizer(folder: str | Path) -> Tokenize:
    """Tokenizer from a local folder in Hugging Face's layout, or with a bare `spiece.model`; no download."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no tokenizer folder {folder}")
    if not (folder / "tokenizer.json").exists() and (folder / "spiece.model").exists():
        return sentencepiece_tokenizer((folder / "spiece.model").read_bytes())
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return lambda text: tokenizer(text, add_special_tokens=True).input_ids
