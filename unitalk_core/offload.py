"""A transformer whose blocks come to the device one by one, from its file or from page-locked memory."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .av import AV
from .config import ModelConfig
from .models.float8 import Float8, expect_float8
from .models.mmdit import JointDiT
from .weights.files import WeightsFile, open_weights
from .weights.keymaps import find_part
from .weights.quantised import dequantised, for_float8

BLOCK = re.compile(r"(\w+)\.blocks\.(\d+)\.(.+)")
Weights = dict[str, Tensor]
Part = tuple[WeightsFile, dict[str, str]]  # a file, and our names with its own


def with_weights(module: nn.Module, weights: Weights, run: Callable[[Any], Any], state: Any) -> Any:
    """Call a block that runs `run` on `state`, with other weights in the place of its own."""
    return functional_call(module, weights, (run, state))


class FileBlocks:
    """The weights of each block, read when it runs, in the type and on the device it runs with.

    On a CPU they are gone after it: a model may be larger than memory. For a GPU they stay in page-locked
    memory, and those of the next block are on their way while this one runs.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        dtype: torch.dtype,
        device: torch.device,
        float8: Float8 | None = None,
    ) -> None:
        self.dtype, self.device, self.float8 = dtype, device, float8
        self.around: list[Part] = []
        self.blocks: dict[int, dict[str, list[Part]]] = {}
        for path in paths:
            self._find(path)
        self.side = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.pinned: dict[int, dict[str, Weights]] = {}
        self.coming: dict[int, dict[str, Weights]] = {}

    def _find(self, path: str | Path) -> None:
        """Which of a file's names belong to which block, and which to none."""
        file = open_weights(path)
        ours = find_part(file.entries, "model", path).take({name: name for name in file.entries})
        outside, inside = {}, defaultdict(lambda: defaultdict(dict))
        for name, theirs in ours.items():
            found = BLOCK.fullmatch(name)
            if found:
                inside[int(found[2])][found[1]][name] = theirs
            else:
                outside[name] = theirs
        self.around.append((file, outside))
        for index, streams in inside.items():
            for stream, names in streams.items():
                self.blocks.setdefault(index, {}).setdefault(stream, []).append((file, names))

    def outside(self) -> Weights:
        """All that belongs to no block, on the device."""
        return {name: one.to(self.device) for part in self.around for name, one in self._read(*part).items()}

    def run(self, index: int, block: partial, state: AV) -> AV:
        """`run_block` of the model's hooks."""
        weights = self.coming.pop(index, None) or self.fetch(index)
        if self.side is not None:
            torch.cuda.current_stream(self.device).wait_stream(self.side)
            self.coming = {following: self.fetch(following) for following in [(index + 1) % len(self.blocks)]}
        run = block
        modules = {"video_model": block.args[0].video, "audio_model": block.args[0].audio}
        for stream, module in modules.items():
            if module is not None:
                run = partial(with_weights, module, weights[stream], run)
        return run(state)

    def fetch(self, index: int) -> dict[str, Weights]:
        """The weights of a block on the device, by stream; of a GPU, as soon as its side stream is done."""
        if self.side is None:
            return self.read(index)
        if index not in self.pinned:
            self.pinned[index] = mapped(self.read(index), Tensor.pin_memory)
        with torch.cuda.stream(self.side):
            here = mapped(self.pinned[index], lambda one: one.to(self.device, non_blocking=True))
        mapped(here, lambda one: one.record_stream(torch.cuda.current_stream(self.device)))
        return here

    def read(self, index: int) -> dict[str, Weights]:
        return {stream: self._of_block(parts) for stream, parts in self.blocks[index].items()}

    def _of_block(self, parts: list[Part]) -> Weights:
        """Under the names that they have inside their block."""
        held = {name: one for part in parts for name, one in self._read(*part).items()}
        return {BLOCK.fullmatch(name)[3]: one for name, one in held.items()}

    def _read(self, file: WeightsFile, names: dict[str, str]) -> Weights:
        """Tensors of a file under our names, as the layers take them."""
        if self.float8 is not None:
            return for_float8({ours: file.read(theirs) for ours, theirs in names.items()}, self.dtype)
        entries = {ours: file.entries[theirs] for ours, theirs in names.items()}
        return dict(dequantised(entries, lambda ours: file.read(names[ours]), self.dtype))


def mapped(weights: dict[str, Weights], change: Callable[[Tensor], Any]) -> dict[str, Weights]:
    return {stream: {name: change(one) for name, one in held.items()} for stream, held in weights.items()}


def load_around_blocks(config: ModelConfig, blocks: FileBlocks) -> JointDiT:
    """The transformer with all its weights but those of the blocks, which have none."""
    with torch.device("meta"):
        model = JointDiT(config)
    if blocks.float8 is not None:
        expect_float8(model, blocks.float8)
    model.load_state_dict(model.state_dict() | blocks.outside(), assign=True)
    return model.eval()
