"""AnimateDiff's models: where they come from, what suits them, and the shape of their networks in full."""

from __future__ import annotations

from ...store.finding import BUNDLED
from ..base import Half, Model

# Stable Diffusion 1.5's UNet with the motion modules of adapter v1.5-3 already in place, as
# UNetMotionModel.from_unet2d joins them. attention_head_dim 8 is that UNet's number of heads.
UNET = {
    "_class_name": "UNetMotionModel",
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlockMotion",) * 3 + ("DownBlockMotion",),
    "up_block_types": ("UpBlockMotion",) + ("CrossAttnUpBlockMotion",) * 3,
    "layers_per_block": 2,
    "num_attention_heads": 8,
    "cross_attention_dim": 768,
    "norm_num_groups": 32,
    "motion_num_attention_heads": 8,
    "motion_max_seq_length": 32,
    "use_motion_mid_block": False,
}

VAE = {
    "_class_name": "AutoencoderKL",
    "sample_size": 512,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
}

TEXT_ENCODER = {
    "_class_name": "CLIPTextModel",
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
}

# The adapter itself: its pipeline keeps a second copy of the motion modules beside the UNet's.
MOTION_ADAPTER = {
    "_class_name": "MotionAdapter",
    "block_out_channels": (320, 640, 1280, 1280),
    "motion_layers_per_block": 2,
    "motion_num_attention_heads": 8,
    "motion_norm_num_groups": 32,
    "motion_max_seq_length": 32,
    "use_motion_mid_block": False,
}

FRAMES = 16  # its files do not say
SIZES = ((512, 512), (768, 512), (512, 768), (1024, 576))
CONFIGS = {"unet": UNET, "vae": VAE, "text_encoder": TEXT_ENCODER, "motion_adapter": MOTION_ADAPTER}
V2_CONFIGS = CONFIGS | {  # motion adapter v1.5-2, which also moves the mid block
    "unet": UNET | {"use_motion_mid_block": True},
    "motion_adapter": MOTION_ADAPTER | {"use_motion_mid_block": True},
}
BASE, ADAPTER = "base", "motion_adapter"
HALVES = (
    Half(
        BASE,
        "Image model",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "another Stable Diffusion 1.5 model for animatediff",
    ),
    Half(
        ADAPTER, "Motion adapter", "guoyww/animatediff-motion-adapter-v1-5-3", "another motion adapter for animatediff"
    ),
)

MODELS = (
    Model(
        "tiny-animatediff",
        "text-to-video",
        str(BUNDLED / "tiny-animatediff"),
        "moving shapes from a sentence, made for trying things out on any machine",
        label="Tiny, from a sentence",
        job=(("num_frames", 8), ("guidance_scale", 3.0)),
        sizes=((64, 64), (96, 64), (64, 96), (128, 128)),
        is_small=True,
    ),
    Model(
        "animatediff",
        "text-to-video",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "AnimateDiff v1.5-3 on Stable Diffusion 1.5, 16 frames of 512x512",
        label="AnimateDiff",
        parts=((ADAPTER, "guoyww/animatediff-motion-adapter-v1-5-3"),),
        job=(("height", 512), ("width", 512), ("num_frames", FRAMES), ("fps", 8)),
        sizes=SIZES,
        configs=CONFIGS,
    ),
    Model(
        "animatediff-v2",
        "text-to-video",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "AnimateDiff v1.5-2 on Stable Diffusion 1.5, which also moves the middle block",
        label="AnimateDiff v2",
        parts=((ADAPTER, "guoyww/animatediff-motion-adapter-v1-5-2"),),
        job=(("height", 512), ("width", 512), ("num_frames", FRAMES), ("fps", 8)),
        sizes=SIZES,
        configs=V2_CONFIGS,
        is_offered=False,
    ),
)
