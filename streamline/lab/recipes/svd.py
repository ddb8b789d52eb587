"""Train tiny-svd, an image-to-video model of the Stable Video Diffusion family.

Stages: autoencoder with a temporal decoder on short pieces of clips; a bank of latents; the denoiser,
together with the image encoder that conditions it; last the decoder again, alone, on longer pieces.

    python -m streamline.lab.recipes.svd --out assets/models/tiny-svd --minutes 90
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from torch import Tensor, nn
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from streamline.lab.recipes import autoencoder, world
from streamline.lab.recipes.bank import load_or_build
from streamline.lab.recipes.common import arguments, channels_last, export, plain_attention
from streamline.lab.recipes.loop import Chance, Stage, Training, train

FRACTIONS = {"autoencoder": 0.20, "denoiser": 0.70, "decoder": 0.10}
"""Each stage's share of the training time."""
CONDITION_DROPOUT = 0.1
NORM_GROUPS = 32
"""Groups of every norm in this family, not to be configured: widths are multiples of it."""
SIGMA_LOG_MEAN, SIGMA_LOG_STD = 1.0, 1.5


@dataclass(frozen=True)
class Size:
    """Widths and amounts; the defaults are those of the bundled model."""

    vae: tuple[int, ...] = (96, 64, 64, 96)
    unet: tuple[int, ...] = (96, 64)
    embedding: int = 64
    heads: int = 4
    bank: int = 4000
    crop: int = 32
    """Side in pixels of what the autoencoder first sees."""
    clips: int = 8
    """Clips in a batch of the denoiser."""


def build_vae(size: Size) -> AutoencoderKLTemporalDecoder:
    """Return an untrained autoencoder; its temporal layers start as the identity."""
    vae = AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * len(size.vae),
        block_out_channels=size.vae,
        layers_per_block=1,
        sample_size=world.SIZE,
        force_upcast=False,
    )
    for name, module in vae.decoder.named_modules():
        if name.endswith("temporal_res_block.conv2"):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    nn.init.dirac_(vae.decoder.time_conv_out.weight)
    nn.init.zeros_(vae.decoder.time_conv_out.bias)
    # Posteriors start narrow: else their noise drowns the faint latents of an untrained encoder.
    nn.init.constant_(vae.quant_conv.bias[vae.config.latent_channels :], -4.0)
    autoencoder.open_path(vae)
    autoencoder.anchor_norm(vae.encoder.mid_block.resnets[-1].conv2, NORM_GROUPS)
    autoencoder.anchor_norm(vae.decoder.up_blocks[-1].resnets[-1].spatial_res_block.conv2, NORM_GROUPS)
    return vae


def build_unet(size: Size) -> UNetSpatioTemporalConditionModel:
    """Return an untrained denoiser; as in the large model, its deepest level has no attention of its own."""
    above = len(size.unet) - 1
    time_embedding = 32
    unet = UNetSpatioTemporalConditionModel(
        sample_size=world.SIZE // 2 ** (len(size.vae) - 1),
        down_block_types=("CrossAttnDownBlockSpatioTemporal",) * above + ("DownBlockSpatioTemporal",),
        up_block_types=("UpBlockSpatioTemporal",) + ("CrossAttnUpBlockSpatioTemporal",) * above,
        block_out_channels=size.unet,
        layers_per_block=1,
        cross_attention_dim=size.embedding,
        num_attention_heads=size.heads,
        addition_time_embed_dim=time_embedding,
        projection_class_embeddings_input_dim=3 * time_embedding,
        num_frames=world.FRAMES,
    )
    autoencoder.anchor_norm(unet.up_blocks[-1].resnets[-1].spatial_res_block.conv2, NORM_GROUPS)
    return unet


def build_image_encoder(size: Size) -> CLIPVisionModelWithProjection:
    """Return an untrained image encoder, (n, 3, 224, 224) pixels -> (n, embedding)."""
    config = CLIPVisionConfig(
        hidden_size=size.embedding,
        intermediate_size=4 * size.embedding,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=224,
        patch_size=32,
        hidden_act="gelu",
        projection_dim=size.embedding,
    )
    return CLIPVisionModelWithProjection(config)


def build_scheduler() -> EulerDiscreteScheduler:
    """Return the scheduler: continuous noise levels, spaced as Karras et al. (2022) do."""
    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        sigma_min=0.002,
        sigma_max=80.0,
        timestep_spacing="leading",
        timestep_type="continuous",
        steps_offset=1,
        use_karras_sigmas=True,
    )


def clip_pixels(images: Tensor, processor: CLIPImageProcessor) -> Tensor:
    """Prepare pictures (n, 3, h, w) in [-1, 1] for the image encoder, as the pipeline does.

    The pipeline blurs before it resizes, against aliasing; enlarging, as here, that blur does nothing.
    """
    large = F.interpolate(images, size=(224, 224), mode="bicubic", align_corners=True)
    mean, std = (torch.tensor(v).view(3, 1, 1).to(large) for v in (processor.image_mean, processor.image_std))
    return ((large + 1) / 2 - mean) / std


class Conditioned(nn.ModuleDict):
    """The denoiser and the image encoder, trained as one."""

    def __init__(self, unet: UNetSpatioTemporalConditionModel, image_encoder: CLIPVisionModelWithProjection) -> None:
        super().__init__({"unet": unet, "image_encoder": image_encoder})
        self.processor = CLIPImageProcessor()

    def loss(self, batch: dict[str, Tensor], chance: Chance) -> Tensor:
        """Return the v-prediction loss of a batch out of the bank.

        The preconditioning is that of Karras et al. (2022) with a data deviation of 1; in the space of v
        its weight of the squared error is 1.
        """
        latents = batch["latents"]
        n, frames = latents.shape[:2]
        keep = (chance.uniform(n) >= CONDITION_DROPOUT).to(latents)
        sigma = torch.exp(SIGMA_LOG_MEAN + SIGMA_LOG_STD * chance.normal(n)).to(latents)
        ids = torch.stack([batch["fps"] - 1, batch["motion_bucket"], batch["noise_aug"]], dim=1)

        s = sigma.view(n, 1, 1, 1, 1)
        noise = chance.normal(*latents.shape).to(latents)
        scaled = (latents + s * noise) / (s.square() + 1).sqrt()
        first = (batch["image_latents"] * keep.view(n, 1, 1, 1)).unsqueeze(1).expand(-1, frames, -1, -1, -1)
        pixels = clip_pixels(batch["first"].to(latents) / 127.5 - 1, self.processor)
        embedding = self["image_encoder"](pixels).image_embeds * keep.view(n, 1)
        v = self["unet"](torch.cat([scaled, first], dim=2), 0.25 * sigma.log(), embedding.unsqueeze(1), ids).sample
        target = (noise - s * latents) / (s.square() + 1).sqrt()
        return F.mse_loss(v.float(), target)


def encode_clip(vae: AutoencoderKLTemporalDecoder, number: int, chance: Chance) -> dict[str, Tensor]:
    """Return a scene's bank entry: latents, and the conditions made of its first frame.

    The image latents, those of a slightly noisy first frame, are not scaled: the pipeline does not.
    """
    scene = world.image_scene(number)
    video = world.draw(scene)
    frames = autoencoder.to_tensor(video)
    noise_aug = torch.exp(-3 + 0.5 * chance.normal(1))
    noisy = frames[:1] + noise_aug * chance.normal(*frames[:1].shape)
    latents = vae.encode(torch.cat([frames, noisy]).to(vae.device)).latent_dist.mode().float().cpu()
    return {
        "latents": latents[:-1],
        "image_latents": latents[-1],
        "first": torch.from_numpy(np.round(video[0] * 255).astype(np.uint8)).permute(2, 0, 1),
        "motion_bucket": torch.tensor(float(world.motion_bucket(scene))),
        "fps": torch.tensor(float(scene.fps)),
        "noise_aug": noise_aug[0],
    }


def run(training: Training, size: Size = Size()) -> StableVideoDiffusionPipeline:
    """Train the stages one after the other; return the pipeline with averaged weights."""
    seed, device = training.seed, training.device
    torch.manual_seed(seed)
    vae = channels_last(build_vae(size).to(device))
    unet = channels_last(build_unet(size).to(device))
    image_encoder = build_image_encoder(size).to(device)
    for part, network in (("vae", vae), ("unet", unet), ("image_encoder", image_encoder)):
        training.begin(part, network)

    def pieces_loss(chance: Chance) -> Tensor:
        # Small pieces are cheap, and many scenes teach more than many frames; every fourth batch is of
        # whole pictures, which is what the autoencoder is for.
        whole = chance.numpy.random() < 1 / 4
        clips, frames, side = (3, 1, world.SIZE) if whole else (12, 1, size.crop)
        images = autoencoder.pictures(chance.numpy, clips, frames, side).to(device)
        return autoencoder.loss(vae, images, chance.torch, lambda z: vae.decode(z, num_frames=frames).sample)

    # Latents in the bank fix the encoder: from then on only the decoder goes on learning.
    bank_path = training.work / "bank.pt"
    fraction = 0.0 if bank_path.exists() else FRACTIONS["autoencoder"]
    train(Stage("autoencoder", vae, pieces_loss, 5e-4), training, fraction)
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)

    bank = None
    if training.minutes > 0 or bank_path.exists():
        with training.precision():
            bank = load_or_build(bank_path, size.bank, lambda n, chance: encode_clip(vae, n, chance), seed)
        scale = autoencoder.latent_scale(bank["latents"])
        vae.register_to_config(scaling_factor=scale)
        bank["latents"] *= scale
        bank = {name: values.to(device) for name, values in bank.items()}

    conditioned = Conditioned(unet, image_encoder)

    def denoiser_loss(chance: Chance) -> Tensor:
        chosen = chance.numpy.integers(len(bank["latents"]), size=size.clips).tolist()
        return conditioned.loss({name: values[chosen] for name, values in bank.items()}, chance)

    with plain_attention(unet):
        train(Stage("denoiser", conditioned, denoiser_loss, 1e-3), training, FRACTIONS["denoiser"])

    def decoder_loss(chance: Chance) -> Tensor:
        # Short pieces of several scenes by turns with a whole clip: hues are learnt from many scenes.
        clips, frames = (1, world.FRAMES) if chance.numpy.random() < 1 / 2 else (4, 2)
        images = autoencoder.pictures(chance.numpy, clips, frames).to(device)
        with torch.no_grad():
            latents = vae.encode(images).latent_dist.mode()
        # Sampled latents are never quite right: the decoder shall forgive small errors.
        latents = latents + 0.05 * chance.normal(*latents.shape).to(latents) / vae.config.scaling_factor
        rebuilt = vae.decode(latents, num_frames=frames).sample.float()
        return autoencoder.reconstruction_loss(rebuilt, images) + autoencoder.colour_loss(rebuilt, images)

    train(Stage("decoder", vae, decoder_loss, 5e-4), training, FRACTIONS["decoder"])
    return StableVideoDiffusionPipeline(
        vae=vae.eval(),
        image_encoder=image_encoder.eval(),
        unet=unet.eval(),
        scheduler=build_scheduler(),
        feature_extractor=conditioned.processor,
    )


def main() -> None:
    """Train and export, as the command line says."""
    training, folder = arguments("Train tiny-svd, a small image-to-video model.", "svd", minutes=105)
    export(run(training), folder)


if __name__ == "__main__":
    main()
