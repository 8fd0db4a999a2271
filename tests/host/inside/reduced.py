"""Published files, reduced: names and layers are the real ones, blocks are fewer, layers narrower.

Nothing of the pack or of a host is imported here, so tests inside a host and outside of it share it.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

MANIFESTS = Path(__file__).parents[2] / "parity" / "goldens" / "state_dict_manifests.json"
NEAR_ONE = re.compile(r"(norm\w*\.weight|gamma|weight_g|data_std)$")
Shapes = dict[str, tuple[int, ...]]


def manifest(name: str) -> Shapes:
    """What a published file holds."""
    keys = json.loads(MANIFESTS.read_text("utf8"))[name]["keys"]
    return {key: tuple(shape) for key, shape in keys.items()}


def reduced(shapes: Mapping[str, tuple[int, ...]], sizes: Mapping[int, int], blocks: int) -> Shapes:
    """The first blocks alone, and every length that `sizes` names as long as it says there."""
    kept = {name: shape for name, shape in shapes.items() if block_of(name) < blocks}
    return {name: tuple(sizes.get(length, length) for length in shape) for name, shape in kept.items()}


def block_of(name: str) -> int:
    """The transformer block that a weight is of; -1 for none."""
    found = re.search(r"\bblocks\.(\d+)\.", name)
    return int(found[1]) if found else -1


def drawn(
    name: str, shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype = torch.float32
) -> Tensor:
    """As if trained: nothing is zero, and what goes through a layer keeps its size."""
    noise = torch.randn(shape, generator=generator, dtype=dtype)
    if NEAR_ONE.search(name):
        return 1 + 0.02 * noise
    return noise.mul_(math.prod(shape[1:]) ** -0.5 if len(shape) > 1 and "bias" not in name else 0.02)


def all_drawn(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: drawn(name, shape, generator) for name, shape in shapes.items()}


def piece_model(sentences: Iterable[str], size: int = 64) -> bytes:
    """A SentencePiece model laid out as UMT5's: pad 0, EOS 1, unknown 2; `size` pieces at most."""
    import sentencepiece

    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_writer=made, vocab_size=size, hard_vocab_limit=False,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
    )  # fmt: skip
    return made.getvalue()
