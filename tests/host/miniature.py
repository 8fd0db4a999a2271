"""An untrained miniature on disk, written and read by the core's own functions."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from unitalk_core.config import TINY
from unitalk_core.models.audio_codec import AudioCodec
from unitalk_core.models.audio_vae import AUDIO_VAE_TINY, AudioVAE
from unitalk_core.models.mel import MEL_16K, Mel
from unitalk_core.models.mmdit import JointDiT, initialise
from unitalk_core.models.text_encoder import PhonemeEncoder
from unitalk_core.models.video_vae import VideoVAE, VideoVAEConfig
from unitalk_core.models.vocos import VOCOS_TINY, Vocos, start_from_mel
from unitalk_core.weights.loading import Parts, save_embedded


def save_random_miniature(folder: Path) -> Path:
    """The four files in `folder`, with seeded weights. Its heads are not zero, so that it does something."""
    torch.manual_seed(0)
    model = JointDiT(TINY)
    initialise(model, seed=0)
    for stream in model.streams.present():
        nn.init.normal_(stream.head.head.weight, std=0.02)
    for name, weight in model.named_parameters():
        if name.endswith("v_ref.weight"):
            nn.init.normal_(weight, std=0.05)
    zeros, ones = (0.0,) * 48, (1.0,) * 48
    picture = VideoVAE(VideoVAEConfig(mean=zeros, std=ones, encoder_width=16, decoder_width=16))
    vocoder = Vocos(VOCOS_TINY)
    start_from_mel(vocoder, MEL_16K)
    sound = AudioCodec(Mel(MEL_16K), AudioVAE(AUDIO_VAE_TINY), vocoder)
    save_embedded(folder, Parts(model, TINY, picture, sound, PhonemeEncoder()))
    return folder
