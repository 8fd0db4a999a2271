"""Rows of the interoperability table: samplers, guiders, guidance, patches of the model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from interop import NOTE, REFUSED, Answer, all_hold, different, in_words, row, same, sampled, stops, watched
from rig import HERE, core, empty, pair, run, stock, worst

SAMPLERS, GUIDANCE, SHIFT, SPEED = "Samplers", "Guidance", "Schedule of the model", "Speed and memory"


def custom(
    guider: object = None, latent: object = None, sigmas: object = None, noise: object = None
) -> tuple:
    """Both latents of SamplerCustomAdvanced, with what makes it the same run as `sampled`."""
    guider = guider or stock("CFGGuider", HERE.model, HERE.positive, HERE.negative, 2.0)
    sigmas = stock("BasicScheduler", HERE.model, "simple", 3, 1.0) if sigmas is None else sigmas
    given = (noise or stock("RandomNoise", 3), guider, stock("KSamplerSelect", "euler"), sigmas)
    return stock("SamplerCustomAdvanced", *given, latent or empty())


def advanced(latent: object, start: int, end: int, add_noise: str, leftover: str) -> dict:
    texts = (HERE.positive, HERE.negative)
    steps = (start, end, leftover)
    return stock(
        "KSamplerAdvanced", HERE.model, add_noise, 3, 4, 2.0, "euler", "simple", *texts, latent, *steps
    )


@row(SAMPLERS, "KSampler", note="all samplers and schedulers: [samplers.md](samplers.md)")
def ksampler() -> Answer:
    """gives what SamplerCustomAdvanced gives with CFGGuider, RandomNoise and BasicScheduler"""
    return same(sampled(), custom()[0])


@row(SAMPLERS, "KSamplerAdvanced, leftover noise", since=(0, 33, 0))
def ksampler_halves() -> Answer:
    """steps 0-2 with leftover noise and steps 2-4 without new noise give what steps 0-4 give"""
    half = advanced(empty(), 0, 2, "enable", "enable")
    return same(advanced(half, 2, 10000, "disable", "disable"), sampled(steps=4))


@row(SAMPLERS, "KSamplerAdvanced, start_at_step")
def ksampler_start() -> Answer:
    """on a finished clip, steps 2-4 give what KSampler gives at denoise 0.5"""
    clip = sampled()
    late = advanced(clip, 2, 10000, "enable", "disable")
    return same(late, sampled(latent=clip, steps=2, denoise=0.5))


@row(SAMPLERS, "SamplerCustom")
def sampler_custom() -> Answer:
    """gives what KSampler gives"""
    sigmas, sampler = stock("BasicScheduler", HERE.model, "simple", 3, 1.0), stock("KSamplerSelect", "euler")
    texts = (HERE.positive, HERE.negative)
    return same(
        stock("SamplerCustom", HERE.model, True, 3, 2.0, *texts, sampler, sigmas, empty())[0], sampled()
    )


@row(SAMPLERS, "SamplerCustomAdvanced, denoised_output")
def sampler_custom_denoised() -> Answer:
    """its second output is the clean estimate of the last step: Euler's own end"""
    made, denoised = custom()
    return same(denoised, made)


@row(SAMPLERS, "SplitSigmas, DisableNoise")
def split_sigmas() -> Answer:
    """two SamplerCustomAdvanced in a row give what one gives"""
    high, low = stock("SplitSigmas", stock("BasicScheduler", HERE.model, "simple", 3, 1.0), 2)
    half, _ = custom(sigmas=high)
    return same(custom(latent=half, sigmas=low, noise=stock("DisableNoise"))[0], sampled())


@row(SAMPLERS, "BasicGuider")
def basic_guider() -> Answer:
    """gives what KSampler gives at cfg 1"""
    return same(custom(stock("BasicGuider", HERE.model, HERE.positive))[0], sampled(cfg=1.0))


@row(SAMPLERS, "DualCFGGuider")
def dual_cfg_guider() -> Answer:
    """with one text twice it gives what KSampler gives at cfg 1"""
    texts = (HERE.positive, HERE.positive, HERE.positive)
    return same(custom(stock("DualCFGGuider", HERE.model, *texts, 2.0, 1.5, "regular"))[0], sampled(cfg=1.0))


@row(SAMPLERS, "PerpNegGuider")
def perp_neg() -> Answer:
    """with the empty text as negative it gives what CFGGuider gives"""
    texts = (HERE.positive, HERE.negative, HERE.negative)
    return same(custom(stock("PerpNegGuider", HERE.model, *texts, 2.0, 1.0))[0], sampled())


@row(SAMPLERS, "AddNoise", REFUSED, "joint latents have no shape for it; use UniTalk Noise with a sampler")
def add_noise() -> Answer:
    """stops in the host"""
    sigmas = stock("BasicScheduler", HERE.model, "simple", 3, 1.0)
    return stops(lambda: stock("AddNoise", HERE.model, stock("RandomNoise", 3), sigmas, sampled()))


@row(GUIDANCE, "LTXVDualCFGGuider")
def ltxv_dual() -> Answer:
    """gives what UniTalk Guider gives at strengths 2 and 3, and what CFGGuider gives at 2 and 2"""

    def given(video: float, audio: float) -> dict:
        return custom(stock("LTXVDualCFGGuider", HERE.model, HERE.positive, HERE.negative, video, audio))[0]

    ours = custom(run("UniTalkGuider", HERE.model, HERE.positive, HERE.negative, 2.0, 3.0, 0.0, 1.0))[0]
    return all_hold(same(given(2.0, 3.0), ours), same(given(2.0, 2.0), sampled()))


@row(GUIDANCE, "LTXVModalityGuidance")
def modality_guidance() -> Answer:
    """gives what UniTalk Coupling Guidance gives at 3 and 3"""
    ours = run("UniTalkCouplingGuidance", HERE.model, 3.0, 3.0, 0.0, 1.0)
    return same(sampled(stock("LTXVModalityGuidance", HERE.model, 3.0, 0.0, 1.0)), sampled(ours))


@row(GUIDANCE, "LTXVSpatioTemporalGuidance")
def spatio_temporal_guidance() -> Answer:
    """runs one pass more a step, without the self-attention of blocks 2 and 3, and changes the clip"""
    plain = sampled()
    with watched() as calls:
        made = sampled(stock("LTXVSpatioTemporalGuidance", HERE.model, 1.0, "2, 3", 0.0, 1.0))
    return all_hold(different(made, plain), (len(calls) == 6, f"{len(calls)} calls in 3 steps"))


@row(GUIDANCE, "SkipLayerGuidanceDiT")
def skip_layers() -> Answer:
    """leaving out block 3 at scale 2, it gives what UniTalk Skip Layer Guidance gives at 3"""
    theirs = stock("SkipLayerGuidanceDiT", HERE.model, 2.0, 0.0, 1.0, "3", "")
    return same(
        sampled(theirs), sampled(run("UniTalkSkipLayerGuidance", HERE.model, "3", 3.0, 3.0, 0.0, 1.0))
    )


@row(GUIDANCE, "CFGZeroStar", NOTE, "one scale is found for both streams together")
def cfg_zero_star() -> Answer:
    """changes the clip; nothing at cfg 1"""
    patched = stock("CFGZeroStar", HERE.model)
    return all_hold(different(sampled(patched), sampled()), same(sampled(patched, cfg=1.0), sampled(cfg=1.0)))


@row(
    GUIDANCE,
    "CFGNorm",
    NOTE,
    "it compares number by number, since it sees no channels; use UniTalk Projected Guidance",
)
def cfg_norm() -> Answer:
    """changes the clip; nothing at cfg 1"""
    patched = stock("CFGNorm", HERE.model, 1.0)
    return all_hold(different(sampled(patched), sampled()), same(sampled(patched, cfg=1.0), sampled(cfg=1.0)))


@row(GUIDANCE, "APG", NOTE, "one norm for both streams together; UniTalk Projected Guidance has one for each")
def apg() -> Answer:
    """changes the clip"""
    return different(sampled(stock("APG", HERE.model, 0.0, 5.0, 0.0)), sampled())


@row(GUIDANCE, "RescaleCFG", REFUSED, "use rescale of UniTalk Projected Guidance")
def rescale_cfg() -> Answer:
    """takes the spread over axes that a packed latent does not have"""
    return stops(lambda: sampled(stock("RescaleCFG", HERE.model, 0.7)), "IndexError")


@row(
    GUIDANCE, "TCFG, Mahiro, TemporalScoreRescaling, Epsilon Scaling", NOTE, "they treat both streams as one"
)
def other_guidance() -> Answer:
    """each changes the clip"""
    given = {"TCFG": (), "Mahiro": (), "TemporalScoreRescaling": (0.95, 1.0), "Epsilon Scaling": (1.05,)}
    plain = sampled()
    return all_hold(
        *(different(sampled(stock(name, HERE.model, *some)), plain) for name, some in given.items())
    )


@row(
    GUIDANCE,
    "NAGuidance, PerturbedAttentionGuidance",
    NOTE,
    "they change nothing: made for layers of other networks. Use UniTalk Skip Layer Guidance",
)
def unheard_guidance() -> Answer:
    """the clip is the same as without"""
    nag, pag = (
        stock("NAGuidance", HERE.model, 5.0, 0.5, 1.5),
        stock("PerturbedAttentionGuidance", HERE.model, 3.0),
    )
    plain = sampled()
    return all_hold(same(sampled(nag), plain), same(sampled(pag), plain))


@row(GUIDANCE, "FreeU, FreeU_V2", REFUSED, "made for U-nets, which this is not")
def free_u() -> Answer:
    """stop before any work"""
    calls = (lambda name=name: stock(name, HERE.model, 1.1, 1.2, 0.9, 0.2) for name in ("FreeU", "FreeU_V2"))
    return all_hold(*(stops(call, "model_channels") for call in calls))


@row(GUIDANCE, "DifferentialDiffusion")
def differential() -> Answer:
    """a mask of halves is made binary a step: the clip is neither the plain one nor that of the mask"""
    start, mask = sampled(steps=1), torch.full((1, 64, 64), 0.5)
    masked = stock("SetLatentNoiseMask", start, mask)
    made = sampled(stock("DifferentialDiffusion", HERE.model), masked)
    apart = [worst(pair(made)[0], pair(sampled(latent=one))[0]) for one in (start, masked)]
    return min(apart) > 1e-3, in_words(apart)


@row(SHIFT, "ModelSamplingSD3")
def sampling_sd3() -> Answer:
    """at shift 7 each sigma of the plain schedule s becomes 7 s / (1 + 6 s)"""
    plain, moved = (
        stock("BasicScheduler", stock("ModelSamplingSD3", HERE.model, shift), "simple", 4, 1.0)
        for shift in (1.0, 7.0)
    )
    found = float((7 * plain / (1 + 6 * plain) - moved).abs().max())
    return found < 1e-3 and bool((plain != moved).any()), f"differs by {found:.2g}"


@row(SHIFT, "ModelNoiseScale", NOTE, "no model of this family was trained with another scale than 1")
def noise_scale() -> Answer:
    """at 1 nothing changes, at 2 the clip does"""
    plain = sampled()
    one, two = (sampled(stock("ModelNoiseScale", HERE.model, scale)) for scale in (1.0, 2.0))
    return all_hold(same(one, plain), different(two, plain))


@row(SHIFT, "ModelSamplingAuraFlow, ModelSamplingFlux, ModelSamplingLTXV", REFUSED, "use ModelSamplingSD3")
def sampling_of_others() -> Answer:
    """they would tell the network timesteps up to 1 in place of 1000; the sampler stops and says so"""
    return all_stop(
        ModelSamplingAuraFlow=(3.0,), ModelSamplingFlux=(1.15, 0.5, 64, 64), ModelSamplingLTXV=(2.05, 0.95)
    )


@row(SHIFT, "ModelSamplingDiscrete, ModelSamplingContinuousEDM", REFUSED, "made for models that are no flows")
def sampling_of_no_flow() -> Answer:
    """the sampler stops and says so"""
    return all_stop(ModelSamplingDiscrete=("eps", False), ModelSamplingContinuousEDM=("edm", 120.0, 0.002))


def all_stop(**given: tuple[Any, ...]) -> Answer:
    """Whether the model that each node makes is refused, and the first sentence that says so."""
    says = [
        stops(lambda n=n, a=a: sampled(stock(n, HERE.model, *a)), "ModelSamplingSD3")
        for n, a in given.items()
    ]
    return all(holds for holds, _ in says), says[0][1]


@row(SPEED, "EasyCache", NOTE, "it judges by the picture alone; UniTalk Step Cache judges by both")
def easy_cache() -> Answer:
    """with a threshold of 0 nothing changes; with a high one it skips steps, and the clip stays finite"""
    return cache("EasyCache")


@row(SPEED, "LazyCache", NOTE, "it judges by picture and sound together, as one row of numbers")
def lazy_cache() -> Answer:
    """with a threshold of 0 nothing changes; with a high one it skips steps, and the clip stays finite"""
    return cache("LazyCache")


def cache(name: str) -> Answer:
    plain = sampled(steps=8)
    none = sampled(stock(name, HERE.model, 0.0, 0.15, 0.95, False), steps=8)
    with watched() as calls:
        made = sampled(stock(name, HERE.model, 3.0, 0.15, 0.95, False), steps=8)
    finite = all(torch.isfinite(one).all() for one in pair(made))
    skipped = 8 - len(calls)
    return all_hold(same(none, plain), (bool(finite) and skipped > 0, f"{skipped} of 8 steps skipped"))


@row(SPEED, "ModelComputeDtype")
def compute_dtype() -> Answer:
    """bf16 is near float32"""
    found = worst(pair(sampled(stock("ModelComputeDtype", HERE.model, "bf16")))[0], pair(sampled())[0])
    return 0 < found < 0.05, f"the picture differs by {found:.2g}"


@row(
    SPEED,
    "TorchCompileModel",
    NOTE,
    "needs a C++ compiler on a CPU",
    slow=True,
)
def torch_compile() -> Answer:
    """inductor, on a CPU, with a network of one block: the clip of one step is the same as without"""
    config, mmdit = core("unitalk_core.config"), core("unitalk_core.models.mmdit")
    shallow = replace(config.TINY, streams=config.TINY.streams.map(lambda one: replace(one, depth=1)))
    network = mmdit.JointDiT(shallow)
    mmdit.initialise(network, seed=0)
    for stream in network.streams.present():
        torch.nn.init.normal_(stream.head.head.weight, std=0.02)
    model = core("nodes.model").make_patcher(network, None, disable_dynamic=True)
    return same(sampled(stock("TorchCompileModel", model, "inductor"), steps=1), sampled(model, steps=1))


def windows(dim_or_wan: str, length: int, overlap: int, **changes: object) -> object:
    given = {
        "context_schedule": "standard_static",
        "context_stride": 1,
        "closed_loop": False,
        "fuse_method": "pyramid",
    }
    more = {"freenoise": False} | ({} if dim_or_wan == "WanContextWindowsManual" else {"dim": 2}) | changes
    return stock(dim_or_wan, HERE.model, length, overlap, **given, **more)


@row(
    SPEED,
    "ContextWindowsManual (dim 2)",
    NOTE,
    "switch causal_window_fix off: it adds a frame of picture without its sound",
)
def context_windows() -> Answer:
    """a window as long as the clip changes nothing; shorter ones see picture and sound of the same seconds"""
    name = "ContextWindowsManual"
    latent = empty(seconds=1.0)  # 7 latent frames, 31 of sound
    whole = same(sampled(windows(name, 7, 2, causal_window_fix=False), latent), sampled(latent=latent))
    with watched() as calls:
        made = sampled(windows(name, 4, 2, causal_window_fix=False), latent)
    seen = sorted({(video[2], audio[2]) for video, audio in calls})
    lasts = [abs(video / 7 - audio / 31) for video, audio in seen]
    return all_hold(
        whole, different(made, sampled(latent=latent)), (max(lasts) < 1 / 31, f"windows of {seen}")
    )


@row(
    SPEED,
    "WanContextWindowsManual",
    NOTE,
    "each window but the first gets a frame of picture more than of sound",
)
def wan_context_windows() -> Answer:
    """a kept sound stays bit for bit, and windows of 13 frames change the picture"""
    clip = sampled(latent=empty(seconds=1.0))
    kept = run("UniTalkKeepAudio", clip)
    made = sampled(windows("WanContextWindowsManual", 13, 4), kept)
    moved = worst(pair(made)[0], pair(sampled(latent=kept))[0])
    return torch.equal(pair(made)[1], pair(clip)[1]) and moved > 1e-3, f"the picture differs by {moved:.2g}"
