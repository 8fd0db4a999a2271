"""UniTalk as a stock MODEL: the core's network under ComfyUI's BaseModel and ModelPatcher.

b batch · c channels · f latent frames · h, w latent rows, columns · n audio latents · N all numbers of a clip

The host packs both streams flat, (b, 1, N), so that every stock sampler, scheduler, guider and mask works on
them; the network gets them back as a list.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import comfy.conds
import comfy.latent_formats
import comfy.lora
import comfy.lora_convert
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.model_sampling
import comfy.nested_tensor
import comfy.patcher_extension
import comfy.supported_models_base
import comfy.utils
import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ..unitalk_core.av import AV, same_seconds
from ..unitalk_core.config import ModelConfig
from ..unitalk_core.diffusion.denoiser import effective_coupling, token_timesteps
from ..unitalk_core.models.audio_codec import AudioCodec
from ..unitalk_core.models.markup import check_markup
from ..unitalk_core.models.mmdit import Hooks, JointDiT
from ..unitalk_core.models.text import Texts
from ..unitalk_core.models.voices import Span, Voices, check_spans
from ..unitalk_core.weights.loading import CONFIG, as_tensor
from ..unitalk_core.weights.lora import PREFIX, part_of
from . import host
from .hearing import show_sound
from .preview import SoundMap, film_strip, sound_picture

# The host reckons with this x 0.01 MiB for each number of a packed latent and each byte of precision. Counted
# over one forward at full size in bfloat16: 590 bytes a number (0.028), 970 with a mask (0.046). It grows
# with the width.
MEMORY_FACTOR = 0.05
LAST_TIMESTEP = 1000  # what the network is told of pure noise


class Operations:
    """The host's layer classes with device and dtype filled in: the `ops` that the core builds with."""

    def __init__(self, operations: Any, device: torch.device | None, dtype: torch.dtype | None) -> None:
        self._operations, self._made = operations, {"device": device, "dtype": dtype}

    def __getattr__(self, name: str) -> Any:
        return partial(getattr(self._operations, name), **self._made)


class Network(JointDiT):
    """The core's network, called the way the host calls a diffusion model."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: Any, operations: Any) -> None:
        with torch.device(device or "cpu"):
            super().__init__(config, Operations(operations, device, dtype))
        self.dtype = dtype

    def forward(
        self,
        x: list[Tensor] | Tensor,
        timestep: tuple[Tensor, Tensor] | Tensor,
        context: Tensor | None = None,
        transformer_options: dict[str, Any] | None = None,
        **conditions: Any,
    ) -> list[Tensor] | Tensor:
        """Velocity of the streams in `x`, packed the same way. Wrappers of the host run around it."""
        options = transformer_options or {}
        kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
        wrappers = comfy.patcher_extension.get_all_wrappers(kind, options)
        if wrappers:  # some write into their input (EasyCache), which the host goes on to use
            x = x.clone() if torch.is_tensor(x) else [one.clone() for one in x]
        executor = comfy.patcher_extension.WrapperExecutor.new_class_executor(self._velocity, self, wrappers)
        return executor.execute(x, timestep, context, options, **conditions)

    def _velocity(
        self,
        x: list[Tensor] | Tensor,
        timestep: tuple[Tensor, Tensor] | Tensor,
        context: Tensor,
        options: dict[str, Any],
        sound_context: Tensor | None = None,
        couple: tuple[bool, bool] = (True, True),
        **given: Any,
    ) -> list[Tensor] | Tensor:
        latent = host.by_rank([x] if torch.is_tensor(x) else list(x))
        heard, read = self._heard(**given), options.get("unitalk_texts", lambda text: text)
        velocity = (
            super()
            .forward(
                latent,
                AV(timestep, timestep) if torch.is_tensor(timestep) else AV(*timestep),
                AV(context, context if sound_context is None else sound_context).map(read),
                None if heard is None else AV(heard, heard),
                couple=(
                    couple[0] and options.get("a2v_cross_attn", True),
                    couple[1] and options.get("v2a_cross_attn", True),
                ),
                skip_blocks=options.get("unitalk_skip_blocks", ()),
                hooks=hooks_for(options),
            )
            .present()
        )
        return velocity[0] if len(velocity) == 1 else velocity

    def _heard(
        self, reference: Tensor | None = None, voices: tuple[tuple[int, Span | None], ...] = (), **_: Any
    ) -> Tensor | Voices | None:
        """One voice as it is, several apart again."""
        if reference is None or not voices:
            return reference
        lengths, spans = zip(*voices, strict=True)
        latents = reference.split(lengths, dim=1)
        return Voices.at_seconds(latents, spans, self.config.format.video_rate)


def hooks_for(options: dict[str, Any]) -> Hooks:
    """What the host's transformer options ask of the network: attention, block patches, STG blocks."""

    def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        layout = {"skip_reshape": True, "skip_output_reshape": True}
        return optimized_attention(q, k, v, q.shape[1], mask=mask, transformer_options=options, **layout)

    patches = options.get("patches_replace", {}).get("dit", {})

    def run_block(index: int, block: Any, state: AV) -> AV:
        patch = patches.get(("double_block", index))
        return block(state) if patch is None else patched_block(patch, block, state, options)

    return Hooks(attention, run_block, options.get("stg_self_attn_blocks", ()))


def patched_block(patch: Any, block: Any, state: AV, options: dict[str, Any]) -> AV:
    """Run one block through a block patch of the host: `img` is the pair (picture tokens, sound tokens)."""

    def with_tokens(tokens: tuple) -> AV:
        return state.map(lambda one, new: replace(one, tokens=new), AV(*tokens))

    def tokens_of(some: AV) -> tuple:
        tokens = some.map(lambda one: one.tokens)
        return tokens.video, tokens.audio

    def original(args: dict[str, Any]) -> dict[str, Any]:
        return {"img": tokens_of(block(with_tokens(args["img"])))}

    args = {"img": tokens_of(state), "txt": state.map(lambda one: one.text), "transformer_options": options}
    return with_tokens(patch(args, {"original_block": original})["img"])


class UniTalk(comfy.model_base.BaseModel):
    """A rectified flow over picture and sound. `unitalk` is the core's configuration."""

    def __init__(self, model_config: Any, device: Any = None) -> None:
        flow = comfy.model_base.ModelType.FLOW
        super().__init__(model_config, flow, device=device, unet_model=Network)
        self.unitalk: ModelConfig = model_config.unet_config["config"]

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        """Conditioning -> what `_apply_model` passes on: shapes, voices, text of the sound, masks, couple."""
        out = super().extra_conds(**kwargs)
        shapes = kwargs.get("latent_shapes")
        if shapes is not None:
            out["latent_shapes"] = comfy.conds.CONDConstant(shapes)
        for text in (kwargs.get("cross_attn"), kwargs.get("sound_context")):
            self.unitalk.check_text(text)
        if kwargs.get("markup") is not None:
            check_markup(kwargs["markup"], self.unitalk.markup)
        out |= self._voices(kwargs.get("reference"), kwargs.get("voices", ()), shapes)
        if kwargs.get("sound_context") is not None:
            out["sound_context"] = comfy.conds.CONDRegular(kwargs["sound_context"])
        mask = kwargs.get("denoise_mask")
        if mask is not None:
            masks = host.by_rank(comfy.utils.unpack_latents(mask, shapes or [mask.shape]))
            for name, one in (("video_mask", masks.video), ("audio_mask", masks.audio)):
                if one is not None:
                    out[name] = comfy.conds.CONDRegular(one[:, :1])
            out["couple"] = comfy.conds.CONDConstant(effective_coupling((True, True), masks))
        return out

    def _voices(self, reference: Tensor | None, ranged: tuple, shapes: list | None) -> dict[str, Any]:
        """The voice that is heard throughout, or several one behind the other with (length, span) of each.

        ranged: (latents (b, n, c), span) of each voice that has its own seconds.
        """
        heard = self.unitalk.reference_len
        if (reference is not None or ranged) and not heard:
            raise ValueError("this model does not take a voice; leave out UniTalk Reference Audio Encode")
        every = [*([] if reference is None else [(reference, None)]), *ranged]
        if not every:
            return {}
        self.unitalk.check_voices([one for one, _ in every])
        latents = [one[:, :heard] for one, _ in every]
        out = {"reference": comfy.conds.CONDRegular(torch.cat(latents, dim=1))}
        if ranged:
            if shapes is not None:
                check_spans([span for _, span in ranged], self._seconds(shapes))
            parts = [(one.shape[1], span) for one, (_, span) in zip(latents, every, strict=True)]
            out["voices"] = comfy.conds.CONDConstant(tuple(parts))
        return out

    def _seconds(self, shapes: list) -> float:
        """How long a clip of these latents is, by its sound, which has the finer steps."""
        rates = {3: self.unitalk.format.audio_rate, 5: self.unitalk.format.video_rate}
        return shapes[-1][2] / rates[len(shapes[-1])]

    def process_timestep(
        self,
        timestep: Tensor,
        video_mask: Tensor | None = None,
        audio_mask: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, Tensor]:
        """(b,) -> one timestep a stream, (b,) or per token (b, tokens) where a mask keeps something."""
        patch = (1, self.unitalk.format.patch, self.unitalk.format.patch)
        return tuple(
            timestep if mask is None else token_timesteps(mask, timestep, mask.shape, patch)
            for mask in (video_mask, audio_mask)
        )

    def map_context_window_to_modalities(self, primary_indices: list[int], shapes: list, dim: int) -> list:
        """Latent frames of a context window -> what of each stream belongs to it."""
        lengths = [shape[dim] for shape in shapes]
        return [primary_indices, *(same_seconds(primary_indices, lengths[0], one) for one in lengths[1:])]

    def resize_cond_for_context_window(
        self, cond_key: str, cond_value: Any, window: Any, _x_in: Tensor, device: Any, **_: Any
    ) -> Any:
        """What of a condition belongs to a context window: of masks a part, all of a text or a voice."""
        if cond_key == "voices":
            raise ValueError(
                "voices with seconds of their own cannot be used in context windows; leave out UniTalk Voice "
                "Range, or go on clip by clip with UniTalk Continue"
            )
        if cond_key not in ("video_mask", "audio_mask"):
            return cond_value
        sound = cond_key == "audio_mask" and window.modality_windows
        part = window.modality_windows[1] if sound else window
        return cond_value._copy_with(part.get_tensor(cond_value.cond, device, dim=2))

    def state_dict_for_saving(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """As the host saves models, with the configuration, for which its metadata has no place."""
        return super().state_dict_for_saving(*args, **kwargs) | {CONFIG: as_tensor(model=self.unitalk)}

    def scale_latent_inpaint(self, latent_image: Tensor, **_: Any) -> Tensor:
        """What is kept is shown to the network clean, at timestep 0."""
        return latent_image

    def process_latent_in(self, latent: Any) -> Any:
        return self._scale_picture(latent, self.latent_format.process_in)

    def process_latent_out(self, latent: Any) -> Any:
        return self._scale_picture(latent, self.latent_format.process_out)

    def _scale_picture(self, latent: Any, scale: Any) -> Any:
        """Apply the picture's statistics to a nested latent, a flat pack (b, 1, N), or one plain stream."""
        if getattr(latent, "is_nested", False):
            return comfy.nested_tensor.NestedTensor(
                [self._scale_picture(one, scale) for one in latent.unbind()]
            )
        if self._is_pack(latent):
            streams = comfy.utils.unpack_latents(latent, self.latent_shapes)
            return comfy.utils.pack_latents([self._scale_picture(one, scale) for one in streams])[0]
        return scale(latent) if latent.ndim == 5 else latent

    def _is_pack(self, latent: Tensor) -> bool:
        shapes = self.latent_shapes or []
        return len(shapes) > 1 and tuple(latent.shape[1:]) == (
            1,
            sum(math.prod(shape[1:]) for shape in shapes),
        )


class JointFormat(comfy.latent_formats.Wan22):
    """Wan2.2's latents; in previews the sound that is made beside them is shown below the frames.

    heard: the estimate of the sound (b, c, n) while a preview is drawn. sound_map: what makes mels of it.
    codec: what makes a sound of it that browsers play, unless a MODEL brings its own (hearing.with_codec).
    """

    def __init__(self) -> None:
        super().__init__()
        self.heard: Tensor | None = None
        self.sound_map: SoundMap | None = None
        self.codec: AudioCodec | None = None
        self.latent_rgb_factors_reshape = self._with_sound

    def _with_sound(self, video: Tensor) -> Tensor:
        if self.heard is None or video.ndim != 5:
            return video
        factors, bias = torch.tensor(self.latent_rgb_factors), torch.tensor(self.latent_rgb_factors_bias)
        return film_strip(video, sound_picture(self.heard[0], self.sound_map), factors, bias)


class Family(comfy.supported_models_base.BASE):
    """What the host asks of a kind of model. The core cannot be told of it, so our own loader uses it."""

    latent_format = JointFormat
    unet_extra_config: ClassVar[dict[str, Any]] = {}
    memory_usage_factor = MEMORY_FACTOR

    def __init__(self, config: ModelConfig) -> None:
        super().__init__({"config": config})
        self.sampling_settings = {"shift": config.shift}
        if config.streams.video is None:  # or the host makes an empty latent as wide as a picture's
            self.latent_format.latent_channels = config.format.audio_channels
            self.latent_format.latent_dimensions = 1
            self.latent_format.latent_rgb_factors = None
        self.memory_usage_factor = MEMORY_FACTOR * config.streams.present()[0].width / 3072

    def get_model(self, *_: Any, device: Any = None) -> UniTalk:
        return UniTalk(self, device=device)


def make_patcher(
    network: JointDiT, dtype: torch.dtype | None, disable_dynamic: bool
) -> comfy.model_patcher.ModelPatcher:
    """A MODEL from a network that the core has loaded. dtype: of the weights; None = the host's choice."""
    return patcher_of(network.config, network.state_dict(), dtype, disable_dynamic)


def patcher_of(
    config: ModelConfig, tensors: dict[str, Tensor], dtype: torch.dtype | None, disable_dynamic: bool
) -> comfy.model_patcher.ModelPatcher:
    """A MODEL from weights in the core's names; those in fp8 stay so (`quantised.in_fp8`)."""
    family, device = Family(config), comfy.model_management.get_torch_device()
    family.quant_config = comfy.utils.detect_layer_quantization(tensors, "")
    set_precision(family, tensors, dtype, device)
    model = family.get_model(tensors)
    # looked up here and not at import: the host swaps the class on CUDA
    kind = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    offload = comfy.model_management.unet_offload_device()
    patcher = kind(model, load_device=device, offload_device=offload)
    if not comfy.model_management.is_device_cpu(offload):
        model.to(offload)
    model.load_model_weights(as_held(model.diffusion_model, tensors, patcher.is_dynamic()), "", assign=True)
    patcher.add_wrapper(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, checked)
    patcher.add_wrapper(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, put_back)
    patcher.add_wrapper(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, show_sound)
    patcher.add_wrapper(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, reading_once)
    patcher.add_callback(comfy.patcher_extension.CallbacksMP.ON_LOAD, patch_tables)
    return patcher


def as_held(network: Network, tensors: dict[str, Tensor], dynamic: bool) -> dict[str, Tensor]:
    """Weights in the types that a network holds them in, which it takes over: there is no second copy.

    They leave `tensors` one by one. dynamic: the host makes the types when it runs a layer.
    """
    held = {} if dynamic else {name: one.dtype for name, one in network.named_parameters()}
    names = list(tensors)
    return {name: one.to(held.get(name, one.dtype)) for name in names for one in [tensors.pop(name)]}


def set_precision(
    family: Family, tensors: dict[str, Tensor], dtype: torch.dtype | None, device: torch.device
) -> None:
    """What the weights are held in and what is computed in, as the host's own loader decides it."""
    dtypes, quantised = family.supported_inference_dtypes, family.quant_config is not None
    if dtype is None:
        numbers = {"model_params": comfy.utils.calculate_parameters(tensors), "supported_dtypes": dtypes}
        weights = None if quantised else comfy.utils.weight_dtype(tensors)
        dtype = comfy.model_management.unet_dtype(weight_dtype=weights, **numbers)
    held = None if quantised else dtype
    family.set_inference_dtype(dtype, comfy.model_management.unet_manual_cast(held, device, dtypes))


def in_memory(patcher: Any) -> str:
    """How much the weights of a MODEL take, and whether the device has so much free."""
    size, device = patcher.model_size(), patcher.load_device
    free = comfy.model_management.get_free_memory(device)
    beside = (
        "" if comfy.model_management.is_device_cpu(device) else ", and the host moves them there in parts"
    )
    room = "they fit" if size < free else f"they do not fit{beside}"
    return f"{size / 1e9:.2f} GB of weights; {device} has {free / 1e9:.1f} GB free: {room}"


def patch_tables(patcher: Any, device: Any, *_: Any) -> None:
    """After loading: apply patches to modulation tables, which the host skips: their modules have children.

    Without it a LoRA with parts trained whole would be applied in part, and nothing would say so.
    """
    for key in patcher.patches:
        if key.endswith(".modulation") and key not in patcher.backup:
            patcher.patch_weight_to_device(key, device_to=device)


def with_lora(
    model: Any, tensors: dict[str, Tensor], strengths: Mapping[str, float]
) -> tuple[Any, Counter[str], list[str]]:
    """A MODEL with a LoRA, each part of it at its own strength; how many weights of each part it changes;
    the keys of the file that change nothing: because they fit no weight, or not its shape."""
    names = lora_names(model)
    weights = model.model.state_dict()
    tensors = comfy.lora_convert.convert_lora(tensors)
    patches = comfy.lora.load_lora(tensors, names, log_missing=False)
    patches = {name: patch for name, patch in patches.items() if fits(patch, weights[name])}
    patched, matched = model.clone(), Counter()
    for name, patch in patches.items():
        part = part_of(name.removeprefix(PREFIX))
        matched[part] += 1
        patched.add_patches({name: patch}, strengths[part])
    places = {name for name, weight in names.items() if {weight, bias_of(weight)} & patches.keys()}
    return patched, matched, [key for key in tensors if not any(stem in places for stem in stems(key))]


def lora_names(model: Any) -> dict[str, str]:
    """How LoRA files may call the weights of a MODEL -> their names. Those of Wan alone fit the picture."""
    names = comfy.lora.model_lora_keys_unet(model.model, {})
    picture = {re.sub(r"video_model[._]", "", name, count=1): weight for name, weight in names.items()}
    return picture | names


def bias_of(weight: str) -> str:
    return weight.removesuffix("weight") + "bias"


def stems(key: str) -> Iterator[str]:
    """`a.b.lora_up.weight` -> a, a.b, a.b.lora_up"""
    return (key[: dot.start()] for dot in re.finditer(r"\.", key))


def fits(patch: Any, weight: Tensor) -> bool:
    """Whether a patch has the shape of its weight; of kinds that do not show theirs, yes."""
    if isinstance(patch, tuple):
        return patch[1][0].shape == weight.shape
    if patch.name != "lora" or patch.weights[3] is not None:
        return True
    up, down = patch.weights[:2]
    return (up.shape[0], down[0].numel()) == (weight.shape[0], weight[0].numel())


def checked(executor: Any, noise: Tensor, latent_image: Tensor, *given: Any, **options: Any) -> Tensor:
    """Around the sampling of any sampler: ValueError for a latent or a schedule of another model."""
    patcher = executor.class_obj.model_patcher
    config, shapes = patcher.model.unitalk, options["latent_shapes"]
    latent = host.by_rank(comfy.utils.unpack_latents(latent_image, shapes))
    config.check_latents(latent)
    check_flow(patcher.get_model_object("model_sampling"))
    if len(shapes) < len(config.streams.present()):
        host.say("this latent has one stream, so one is made; UniTalk Empty Latent makes both")
    return executor(noise, latent_image, *given, **options)


def check_flow(sampling: Any) -> None:
    """ValueError if a ModelSampling node has made another kind of model of it."""
    last = float(sampling.timestep(torch.tensor(1.0)))
    if not isinstance(sampling, comfy.model_sampling.CONST) or abs(last - LAST_TIMESTEP) > 1:
        raise ValueError(
            f"this model is a flow with timesteps up to {LAST_TIMESTEP}; a ModelSampling node makes "
            f"{type(sampling).__bases__[0].__name__} up to {last:g} of it; use ModelSamplingSD3 for its shift"
        )


def reading_once(executor: Any, *given: Any, **options: Any) -> Tensor:
    """Around the sampling of any sampler: a text is read in the first step that has it.

    Unless hooks or training change the weights between the steps, and with them what is read.
    """
    guider = executor.class_obj
    if not guider.model_patcher.hook_patches and not comfy.model_management.in_training:
        guider.model_options.setdefault("transformer_options", {})["unitalk_texts"] = Texts()
    return executor(*given, **options)


def put_back(
    executor: Any,
    noise: Tensor,
    latent_image: Tensor,
    sampler: Any,
    sigmas: Tensor,
    denoise_mask: Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    """Around the sampling of any sampler: what the mask keeps comes back bit for bit, picture and sound."""
    made = executor(noise, latent_image, sampler, sigmas, denoise_mask, *args, **kwargs)
    if denoise_mask is None:
        return made
    return torch.where(denoise_mask.to(made) <= 0, latent_image.to(made), made)
