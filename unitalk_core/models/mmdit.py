"""The joint transformer of UniTalking: two identical Wan2.2 streams and one attention over picture and sound.

Paper: sections 4.2 and 4.4. Sign, time and names are Wan2.2's: velocity = noise - data,
timestep = 1000 sigma.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..av import AV
from ..config import ModelConfig
from .attention import QKV, Attention, Bands, bands_within, sdpa
from .coupling import COUPLINGS, Joint, bypassed
from .layers import CrossAttention, Modulation, StreamState, Timesteps
from .stream import Block, Stream
from .text import Text
from .voices import Voices

RunBlock = Callable[[int, Callable[[AV], AV], AV], AV]
Mods = tuple[Modulation, Modulation]
Others = Callable[[AV[StreamState]], AV[StreamState | None]]


@dataclass(frozen=True)
class Hooks:
    """What a host or a trainer may put between the lines of `JointDiT.forward`."""

    attention: Attention = sdpa
    run_block: RunBlock | None = None  # e.g. gradient checkpointing, a host's block patches
    value_blocks: Collection[int] = ()  # blocks where each token attends to itself only (STG)
    share: Callable[..., tuple] | None = None  # the tokens among processes (parallel.ContextParallel)


PLAIN = Hooks()


def always(model: nn.Module, **changes: Any) -> None:
    """Have every pass of this JointDiT run with its hooks so changed, from now on."""

    def told(_: nn.Module, args: tuple, options: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        return args, options | {"hooks": replace(options.get("hooks", PLAIN), **changes)}

    model.register_forward_pre_hook(told, with_kwargs=True)


GATE = 4.0  # the constant of `_start_linear`


class JointDiT(nn.Module):
    """Velocity of a clip. A stream that the config or the call leaves out is None throughout."""

    def __init__(self, config: ModelConfig, ops: Any = nn) -> None:
        super().__init__()
        self.config = config
        fusion = config.coupling == "fusion"
        if config.streams.video is not None:
            self.video_model = Stream(config.streams.video, fusion, ops)
        if config.streams.audio is not None:
            self.audio_model = Stream(config.streams.audio, fusion, ops)

    @property
    def streams(self) -> AV[Stream | None]:
        return AV(getattr(self, "video_model", None), getattr(self, "audio_model", None))

    def forward(
        self,
        latent: AV[Tensor | None],
        timestep: AV[Tensor | Timesteps | None],
        context: AV[Tensor | Text | None],
        reference: AV[Tensor | Voices | None] | None = None,
        *,
        lengths: AV[Tensor | None] | None = None,
        couple: tuple[bool, bool] = (True, True),
        skip_blocks: Collection[int] = (),
        hooks: Hooks = PLAIN,
    ) -> AV[Tensor | None]:
        """Velocity of both streams, each in the shape of its latent.

        latent: video (b, c, f, h, w), audio (b, c, n).
        timestep: on the 0..1000 scale, (b,) or one a token (b, n).
        context: text features (b, len, text_dim), or a `Text`, of which the streams keep what they make.
        reference: voice latents, time first (b, len, reference_dim), or several with their times; None is the
        null voice.
        lengths: (b,) latent frames and audio latents that are real; the rest is padding.
        couple: (audio_to_video, video_to_audio), what is seen of the other stream; the paper's TV2A switches
        the first off.
        skip_blocks: blocks left out of both streams (skip-layer guidance).
        """
        absent = AV(None, None)
        streams = self._streams_for(latent)
        state = streams.map(Stream.embed, latent, timestep, context, reference or absent, lengths or absent)
        meeting = COUPLINGS[self.config.coupling](couple, self._bands(streams, latent), hooks.attention)
        if hooks.share is not None:
            state, meeting, whole = hooks.share(state, meeting)
        for i in range(self.config.streams.present()[0].depth):
            if i in skip_blocks:
                continue
            blocks = streams.map(partial(_block, index=i))
            meet = bypassed(meeting) if i in hooks.value_blocks else meeting
            run = partial(forward_block, blocks, meet)
            if hooks.run_block is not None:
                run = partial(hooks.run_block, i, run)
            for block in blocks.present():
                run = partial(block, run)
            state = run(state)
        if hooks.share is not None:
            state = whole(state)
        return streams.map(Stream.unembed, state, latent)

    def _streams_for(self, latent: AV[Tensor | None]) -> AV[Stream | None]:
        """The streams this call runs; ValueError for a latent without its stream."""
        if not latent.present():
            raise ValueError("both latents are None; give at least one stream")
        for name in ("video", "audio"):
            if getattr(latent, name) is not None and getattr(self.streams, name) is None:
                raise ValueError(f"this model has no {name} stream, but was given a {name} latent")
        return latent.map(lambda _, stream: stream, self.streams)

    def _bands(self, streams: AV[Stream | None], latent: AV[Tensor | None]) -> AV[Bands] | None:
        window = self.config.couple_window
        if window is None or streams.video is None or streams.audio is None:
            return None
        times = streams.map(Stream.times, latent)
        _, rows, columns = streams.video.grid(latent.video)
        return bands_within(times.video, times.audio, rows * columns, window * self.config.format.video_rate)


def before_attention(blocks: AV[Block | None], state: AV[StreamState]) -> tuple[AV[Mods], AV[QKV]]:
    """What both streams bring to the attention, and the modulation of the whole block."""
    mods = blocks.map(Block.modulations, state)
    return mods, blocks.map(Block.qkv, state, mods)


def after_attention(
    blocks: AV[Block | None],
    state: AV[StreamState],
    mods: AV[Mods],
    attended: AV[Tensor],
    others: Others,
    attention: Attention,
) -> AV[StreamState]:
    """Add what was attended to, then the conditions, then the FFN."""
    state = blocks.map(Block.add_attention, state, mods, attended)
    state = blocks.map(partial(Block.add_conditions, attention=attention), state, others(state))
    return blocks.map(Block.feed_forward, state, mods)


def forward_block(
    blocks: AV[Block | None],
    meeting: Joint,
    state: AV[StreamState],
    *,
    before: Callable[..., tuple[AV[Mods], AV[QKV]]] = before_attention,
    after: Callable[..., AV[StreamState]] = after_attention,
    attend: Callable[[Joint, AV[QKV]], AV[Tensor]] = lambda meeting, qkv: meeting.attend(qkv),
) -> AV[StreamState]:
    """One block of both streams; they meet where `meeting` says. A `run_block` may give its parts in another
    form, such as compiled."""
    state = blocks.map(Block.recall, state)
    mods, qkv = before(blocks, state)
    attended = attend(meeting, qkv)
    del qkv  # or it would be there beside the FFN
    return after(blocks, state, mods, attended, meeting.others, meeting.attention)


def _block(stream: Stream, index: int) -> Block:
    return stream.blocks[index]


@torch.no_grad()
def initialise(model: JointDiT, seed: int, but: Collection[str] = ()) -> None:
    """Weights of an untrained model: Wan's own initialisation, and the reference path silent.

    Heads and `v_ref` are zero: an untrained stream predicts nothing and does not hear the reference.
    but: names of the weights that stay as they are.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name not in but:
            _initialise_one(name, parameter, generator)
    for path, module in model.named_modules():
        if f"{path}.v_ref.weight" in but or f"{path}.patch_embedding.0.weight" in but:
            continue
        if isinstance(module, CrossAttention) and hasattr(module, "v_ref"):
            module.v_ref.weight.zero_()
            module.k_ref.weight.copy_(module.k.weight)
        if isinstance(module, Stream) and module.config.input == "conv":
            _start_linear(module.patch_embedding, generator)


def _initialise_one(name: str, parameter: Tensor, generator: torch.Generator) -> None:
    if name.endswith("modulation"):
        parameter.normal_(0, 1 / math.sqrt(parameter.shape[-1]), generator=generator)
    elif name.endswith("bias") or name.endswith("head.head.weight"):
        parameter.zero_()
    elif parameter.ndim == 1:
        parameter.fill_(1)
    elif ".text_embedding." in name or ".time_embedding." in name:
        parameter.normal_(0, 0.02 * math.sqrt(3072 / parameter.shape[1]), generator=generator)  # Wan: 0.02
    else:
        nn.init.xavier_uniform_(parameter.flatten(1), generator=generator)
        if "patch_embedding.2.w2" in name:
            parameter.div_(10)  # beside what `_start_linear` puts there
        if "video_model" in name and "_fusion" in name:
            parameter.div_(10)


def _start_linear(layer: nn.Sequential, generator: torch.Generator) -> None:
    """Let Ovi's audio input begin as a linear map of the latent, as Wan's picture input is.

    One channel holds a constant gate, two carry x and -x of each latent channel: silu(x) - silu(-x) = x.
    Drawn at random alone, the layer is cubic in x; its tokens then drown every condition (docs/log.md).
    """
    conv, _, gated = layer
    count, middle = conv.in_channels, conv.kernel_size[0] // 2
    x, minus, gate = slice(0, count), slice(count, 2 * count), 2 * count
    if conv.out_channels <= gate:
        return
    same = torch.eye(count)
    conv.weight[: gate + 1] = 0
    conv.weight[x, :, middle], conv.weight[minus, :, middle], conv.bias[gate] = same, -same, GATE
    gated.w1.weight[x], gated.w3.weight[x], gated.w2.weight[:, x] = 0, 0, 0
    gated.w1.weight[x, gate, middle] = 1
    gated.w3.weight[x, x, middle], gated.w3.weight[x, minus, middle] = same, -same
    out = torch.empty(conv.out_channels, count)
    nn.init.xavier_normal_(out, generator=generator)
    gated.w2.weight[:, x, middle] = out / functional.silu(functional.silu(torch.tensor(GATE)))
