"""The transformer against Wan2.2 and Ovi: outputs, every block, embeddings, rotary positions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from unitalk_core.av import AV
from unitalk_core.models.layers import StreamState
from unitalk_core.models.mmdit import Hooks, JointDiT
from unitalk_core.models.rope import (
    axis_widths,
    grid_positions,
    rope_angles,
    rotate,
    rotation,
    sinusoid,
    time_positions,
)

from .goldens import Case, cases, check
from .towers import audio_latent, batched, build


class Watch:
    """What the blocks of a model are given and give, as the model runs."""

    def __init__(self) -> None:
        self.before: list[AV[StreamState]] = []
        self.after: list[AV[StreamState]] = []
        self.hooks = Hooks(run_block=self._run)

    def _run(self, _index: int, block, state: AV[StreamState]) -> AV[StreamState]:
        self.before.append(state)
        self.after.append(block(state))
        return self.after[-1]


class Rows:
    """Token rows for `check`, filled up to the reference's padded length; only the true ones count."""

    def __init__(self) -> None:
        self.got: dict[str, Tensor] = {}
        self.valid: dict[str, Tensor] = {}

    def add(self, name: str, parts: list[Tensor], golden: Tensor, length: int | None = None) -> None:
        """parts: (1, n, d) by sample; length: rows in the reference. It may show every k-th of them only."""
        length = length or golden.shape[1]
        step = 1 if golden.shape[1] == length else max(1, length // 16)
        rows = [one.expand(-1, length, -1) if one.shape[1] == 1 else one for one in parts]
        filled = [functional.pad(one, (0, 0, 0, length - one.shape[1])) for one in rows]
        self.got[name] = torch.cat(filled)[:, ::step]
        counts = torch.tensor([one.shape[1] for one in rows])
        self.valid[name] = (torch.arange(length) < counts[:, None])[:, ::step]


def run_wan(case: Case, model: JointDiT, tag: str, sample: int) -> tuple[Tensor, Watch]:
    """One sample of a batch by itself: the padding of the others is masked in the reference."""
    latent = batched(case.io[f"in.{tag}.x{sample}"])
    tokens = latent.shape[2] * latent.shape[3] * latent.shape[4] // 4
    timestep = case.io[f"in.{tag}.t"]
    timestep = (
        timestep[sample : sample + 1, :tokens] if timestep.ndim == 2 else timestep[[sample % len(timestep)]]
    )
    watch = Watch()
    context = batched(case.io[f"in.{tag}.context{sample}"])
    out = model(AV(latent, None), AV(timestep, None), AV(context, None), hooks=watch.hooks)
    return out.video[0], watch


@cases("wan2.2_dit")
def test_wan_transformer(case: Case) -> None:
    model, got, rows = build(case), {}, Rows()
    for tag in sorted({name.split(".")[1] for name in case.io if name.startswith("in.")}):
        samples = sum(name.startswith(f"in.{tag}.x") for name in case.io)
        watches = []
        for i in range(samples):
            got[f"out.{tag}.y{i}"], watch = run_wan(case, model, tag, i)
            watches.append(watch)
        first = [watch.before[0].video for watch in watches]
        parts = {"time_emb": [one.spread(one.time) for one in first]}
        for j in range(len(model.video_model.blocks)):
            parts[f"block{j}"] = [watch.after[j].video.tokens for watch in watches]
        for part, tokens in parts.items():
            name = f"out.{tag}.{part}"
            rows.add(name, tokens, case.io[name], case.call[tag]["seq_len"])
        got[f"out.{tag}.text_emb"] = torch.cat([one.text for one in first])
    check(case, got | rows.got, valid=rows.valid)


@cases("wan2.2_rope_time")
def test_wan_rotary_positions_and_timestep_sinusoid(case: Case) -> None:
    head, grid = case.config["head_dim"], case.config["grid"]
    assert [*axis_widths(head)] == case.config["split_real"]
    x = case.io["in.x"].transpose(1, 2)
    tokens = grid[0] * grid[1] * grid[2]
    turned = x.clone()
    turned[:, :, :tokens] = rotate(x[:, :, :tokens], rotation(rope_angles(grid_positions(*grid), head)))
    shown = len(case.io["out.freqs_real_first64"])
    angles = rope_angles(torch.arange(shown)[:, None].expand(-1, 3), head)
    check(
        case,
        {
            "out.x_rot": turned.transpose(1, 2),
            "out.freqs_real_first64": angles.cos(),
            "out.freqs_imag_first64": angles.sin(),
            "out.sinusoid": sinusoid(case.io["in.t"], case.config["freq_dim"]),
        },
    )


@cases("ovi_audio_rope")
def test_audio_positions_turn_the_temporal_pairs_alone(case: Case) -> None:
    head, count = case.config["head_dim"], case.config["valid_len"]
    pairs = case.config["rotated_real_dims"] // 2
    angles = rope_angles(time_positions(count, case.config["temporal_rope_scaling_factor"]), head)
    assert not angles[:, pairs:].any()
    x = case.io["in.x"].transpose(1, 2)
    turned = x.clone()
    turned[:, :, :count] = rotate(x[:, :, :count], rotation(angles))
    check(
        case,
        {
            "out.x_rot": turned.transpose(1, 2),
            "out.freqs_real": angles[:, :pairs].cos(),
            "out.freqs_imag": angles[:, :pairs].sin(),
        },
    )


@cases("ovi_audio_tower")
def test_ovi_audio_tower(case: Case) -> None:
    model, watch = build(case), Watch()
    latent, context = audio_latent(case.io["in.x"]), batched(case.io["in.context"])
    inputs = AV(None, case.io["in.t"]), AV(None, context)
    out = model(AV(None, latent), *inputs, hooks=watch.hooks).audio
    count, longer = latent.shape[2], case.io["out.block0"].shape[1]
    padded = functional.pad(latent, (0, longer - count))
    length = AV(None, torch.tensor([count]))
    out_padded = model(AV(None, padded), *inputs, lengths=length).audio[..., :count]
    first = watch.before[0].audio
    got = {
        "out.y": out[0].T,
        "out.y_pad": out_padded[0].T,
        "out.patch_embed": first.tokens,
        "out.time_emb": first.spread(first.time),
        "out.text_emb": first.text,
    }
    rows = Rows()
    for i, state in enumerate(watch.after):
        rows.add(f"out.block{i}", [state.audio.tokens], case.io[f"out.block{i}"])
    check(case, got | rows.got, valid=rows.valid)


@cases("ovi_extra_kv_cross_attention")
def test_a_second_condition_is_attended_to_separately_and_added(case: Case) -> None:
    model, watch = build(case), Watch()
    latent, context = audio_latent(case.io["in.x"]), batched(case.io["in.context"])
    reference = AV(None, case.io["in.clip_fea"])
    out = model(AV(None, latent), AV(None, case.io["in.t"]), AV(None, context), reference, hooks=watch.hooks)
    got = {"out.y": out.audio[0].T, "out.img_emb": watch.before[0].audio.reference}
    rows = Rows()
    for i, state in enumerate(watch.after):
        rows.add(f"out.block{i}", [state.audio.tokens], case.io[f"out.block{i}"])
    check(case, got | rows.got, valid=rows.valid)


def first_frame_clean(latent: Tensor, timestep: Tensor) -> Tensor:
    """(1, n): 0 for the tokens of the first latent frame, the timestep for the others."""
    frames, tokens = latent.shape[2], latent.shape[3] * latent.shape[4] // 4
    times = timestep.repeat_interleave(frames * tokens)
    times[:tokens] = 0
    return batched(times)


@cases("ovi_fusion")
def test_ovi_fusion(case: Case) -> None:
    model, watch = build(case), Watch()
    latent = AV(batched(case.io["in.video"]), audio_latent(case.io["in.audio"]))
    context = AV(batched(case.io["in.vid_context"]), batched(case.io["in.audio_context"]))
    same = AV(case.io["in.t"], case.io["in.t"])
    clean = AV(first_frame_clean(latent.video, case.io["in.t"]), case.io["in.t"])
    skip = (case.call["slg_layer"],)
    runs = {
        "t2v": model(latent, same, context, hooks=watch.hooks),
        "i2v": model(latent, clean, context),
        "i2v_slg": model(latent, clean, context, skip_blocks=skip),
    }
    got = {f"out.{tag}.video": out.video[0] for tag, out in runs.items()}
    got |= {f"out.{tag}.audio": out.audio[0].T for tag, out in runs.items()}
    rows = Rows()
    for i, state in enumerate(watch.after):
        for stream in ("video", "audio"):
            name = f"out.t2v.block{i}.{stream}"
            rows.add(name, [getattr(state, stream).tokens], case.io[name])
    got["out.audio_only"] = model(AV(None, latent.audio), same, context).audio[0].T
    got["out.video_only_i2v"] = model(AV(latent.video, None), clean, context).video[0]
    check(case, got | rows.got, valid=rows.valid)
