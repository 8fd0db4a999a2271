"""The nodes of the pack, in menu order. ComfyUI is imported inside `extension`, once its version will do."""

from __future__ import annotations

from typing import Any

NEEDED = (0, 31, 0)  # first host that tells a model the shapes of both streams (`BaseModel.latent_shapes`)


def check_host(version: str) -> None:
    """RuntimeError if this host is too old; a version without numbers counts as a development build."""
    numbers = [int(part) for part in version.split(".")[:3] if part.isdigit()]
    if numbers and tuple(numbers) < NEEDED[: len(numbers)]:
        needed = ".".join(map(str, NEEDED))
        raise RuntimeError(
            f"ComfyUI-UniTalk needs ComfyUI {needed} or newer, this is {version}; update ComfyUI"
        )


def extension() -> Any:
    """The extension object: checks the host, then imports the nodes."""
    from comfyui_version import __version__ as version

    check_host(version)
    from . import hearing, host

    hearing.offer_snippets()
    nodes = [*nodes_for_clips(), *nodes_for_training()]

    class UniTalkExtension(host.ComfyExtension):
        async def get_node_list(self) -> list[type[host.io.ComfyNode]]:
            return nodes

    return UniTalkExtension()


def nodes_for_clips() -> list[type]:
    from . import (
        assembling,
        conditioning,
        decoding,
        evaluation,
        guidance,
        latent_files,
        latents,
        loading,
        lora,
        sampling,
        tasks,
        voices,
    )

    return [
        loading.UniTalkLoadEmbedded,
        loading.UniTalkLoadModel,
        assembling.UniTalkAssembleModel,
        loading.UniTalkLoadTextEncoder,
        loading.UniTalkLoadAudioVAE,
        lora.UniTalkLoraLoader,
        conditioning.UniTalkTextEncode,
        conditioning.UniTalkNegativeEncode,
        conditioning.UniTalkReferenceAudioEncode,
        voices.UniTalkVoiceRange,
        latents.UniTalkEmptyLatent,
        tasks.UniTalkImageToLatent,
        tasks.UniTalkKeepVideo,
        tasks.UniTalkKeepAudio,
        tasks.UniTalkContinue,
        tasks.UniTalkJoinClips,
        latents.UniTalkSplitLatent,
        latents.UniTalkJoinLatent,
        latents.UniTalkRepeatLatent,
        latents.UniTalkLatentFromBatch,
        latents.UniTalkResizeLatent,
        latent_files.UniTalkSaveLatent,
        latent_files.UniTalkLoadLatent,
        sampling.UniTalkJointSampler,
        sampling.UniTalkNoise,
        sampling.UniTalkFlowSampler,
        sampling.UniTalkSchedule,
        sampling.UniTalkStepCache,
        sampling.UniTalkHearWhileSampling,
        guidance.UniTalkGuider,
        guidance.UniTalkVoiceGuidance,
        guidance.UniTalkImageGuidance,
        guidance.UniTalkCouplingGuidance,
        guidance.UniTalkSkipLayerGuidance,
        guidance.UniTalkProjectedGuidance,
        decoding.UniTalkWanVAEDecode,
        decoding.UniTalkBigVGANVocode,
        decoding.UniTalkMuxAV,
        evaluation.UniTalkScore,
        evaluation.UniTalkPickBest,
    ]


def nodes_for_training() -> list[type]:
    from . import dataset, training

    return [
        dataset.UniTalkCheckDataset,
        dataset.UniTalkPrepareDataset,
        training.UniTalkTrainLoRA,
        training.UniTalkTrainFull,
    ]
