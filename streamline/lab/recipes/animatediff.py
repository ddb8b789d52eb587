"""Train tiny-animatediff, a text-to-video model of the AnimateDiff family.

Stages: autoencoder on single pictures; a bank of latents; text-to-image on single frames; then, with
motion modules that start as the identity, text-to-video on whole clips.

    python -m streamline.lab.recipes.animatediff --out assets/models/tiny-animatediff --minutes 90
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import (
    AnimateDiffPipeline,
    AutoencoderKL,
    DDIMScheduler,
    MotionAdapter,
    UNet2DConditionModel,
    UNetMotionModel,
)
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from streamline.lab.recipes import autoencoder, text, world
from streamline.lab.recipes.bank import load_or_build
from streamline.lab.recipes.common import arguments, channels_last, export, plain_attention
from streamline.lab.recipes.loop import Chance, Stage, Training, train

FRACTIONS = {"autoencoder": 0.13, "images": 0.27, "video": 0.60}
"""Each stage's share of the training time."""
PROMPT_DROPOUT = 0.1
IMAGE_NOISE_SHIFT, VIDEO_NOISE_SHIFT = 2.0, 4.0
"""How far training leans to high noise: clips are redundant, so that is where their content and motion are decided."""


@dataclass(frozen=True)
class Size:
    """Widths and amounts; the defaults are those of the bundled model."""

    vae: tuple[int, ...] = (32, 32, 64, 64)
    unet: tuple[int, ...] = (96, 128)
    text: int = 64
    groups: int = 8
    heads: int = 2
    bank: int = 10_000
    pictures: int = 16
    """Pictures in a batch of the autoencoder."""
    images: int = 64
    """Frames in a batch of the image stage."""
    clips: int = 8
    """Clips in a batch of the video stage."""


def build_vae(size: Size) -> AutoencoderKL:
    """Return an untrained autoencoder."""
    levels = len(size.vae)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=size.vae,
        layers_per_block=1,
        norm_num_groups=size.groups,
        sample_size=world.SIZE,
    )


def build_image_unet(size: Size) -> UNet2DConditionModel:
    """Return an untrained text-to-image denoiser."""
    levels = len(size.unet)
    return UNet2DConditionModel(
        sample_size=world.SIZE // 2 ** (len(size.vae) - 1),
        block_out_channels=size.unet,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * levels,
        up_block_types=("CrossAttnUpBlock2D",) * levels,
        cross_attention_dim=size.text,
        attention_head_dim=size.heads,
        norm_num_groups=size.groups,
    )


def build_video_unet(unet: UNet2DConditionModel, size: Size) -> UNetMotionModel:
    """Return the video denoiser made of a text-to-image one and new motion modules."""
    adapter = MotionAdapter(
        block_out_channels=size.unet,
        motion_layers_per_block=1,
        motion_num_attention_heads=size.heads,
        motion_norm_num_groups=size.groups,
        motion_max_seq_length=32,
    )
    video = UNetMotionModel.from_unet2d(unet, adapter)
    for name, parameter in video.named_parameters():
        if "motion_modules" in name and ".proj_out." in name:
            nn.init.zeros_(parameter)
    return video.requires_grad_(True)


def build_scheduler() -> DDIMScheduler:
    """Return the scheduler; its noise ends at pure noise (zero terminal SNR), where sampling begins."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )


class Prompts:
    """Prompts of the scenes in a bank, in changing wordings, encoded by the text encoder in training."""

    def __init__(self, tokenizer: CLIPTokenizer, encoder: CLIPTextModel, count: int) -> None:
        self.tokenizer, self.encoder = tokenizer, encoder
        self.scenes = [world.scene(number) for number in range(count)]

    def encode(self, chosen: list[int], chance: Chance) -> Tensor:
        """Return embeddings (n, MAX_LENGTH, width) of the chosen scenes' prompts, some of them empty."""
        rng = chance.numpy
        prompts = [
            "" if rng.random() < PROMPT_DROPOUT else world.describe(self.scenes[number], rng) for number in chosen
        ]
        tokens = self.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        return self.encoder(tokens.to(self.encoder.device))[0]


def denoising_loss(
    unet: nn.Module, scheduler: DDIMScheduler, latents: Tensor, text: Tensor, chance: Chance, shift: float
) -> Tensor:
    """Return the v-prediction loss of latents (n, 4, h, w) or (n, 4, frames, h, w)."""
    u = chance.uniform(len(latents))
    u = shift * u / (1 + (shift - 1) * u)
    steps = (u * scheduler.config.num_train_timesteps).long().to(latents.device)
    noise = chance.normal(*latents.shape).to(latents)
    noisy = scheduler.add_noise(latents, noise, steps)
    return F.mse_loss(unet(noisy, steps, text).sample.float(), scheduler.get_velocity(latents, noise, steps))


def run(training: Training, size: Size = Size()) -> AnimateDiffPipeline:
    """Train the stages one after the other; return the pipeline with averaged weights."""
    seed, device = training.seed, training.device
    torch.manual_seed(seed)
    vae = channels_last(build_vae(size).to(device))
    tokenizer = text.tokenizer()
    encoder = text.text_encoder(tokenizer, size.text).to(device)
    unet = channels_last(build_image_unet(size).to(device))
    scheduler = build_scheduler()
    training.begin("vae", vae)
    training.begin("text_encoder", encoder)

    def picture_loss(chance: Chance) -> Tensor:
        images = autoencoder.pictures(chance.numpy, size.pictures, frames=1).to(device)
        return autoencoder.loss(vae, images, chance.torch, lambda z: vae.decode(z).sample)

    # Latents in the bank fix the encoder: from then on the autoencoder is only loaded.
    bank_path = training.work / "bank.pt"
    fraction = 0.0 if bank_path.exists() else FRACTIONS["autoencoder"]
    train(Stage("autoencoder", vae, picture_loss, 5e-4), training, fraction)

    def encode(number: int, chance: Chance) -> dict[str, Tensor]:
        frames = autoencoder.to_tensor(world.draw(world.scene(number))).to(device)
        with training.precision():
            return {"latents": vae.encode(frames).latent_dist.mode().float().cpu()}

    bank = None
    if training.minutes > 0 or bank_path.exists():
        bank = load_or_build(bank_path, size.bank, encode, seed)["latents"]
        scale = autoencoder.latent_scale(bank)
        vae.register_to_config(scaling_factor=scale)
        bank = bank.mul_(scale).to(device)
    prompts = Prompts(tokenizer, encoder, size.bank)

    def image_loss(chance: Chance) -> Tensor:
        chosen = chance.numpy.integers(len(bank), size=size.images).tolist()
        frames = chance.numpy.integers(world.FRAMES, size=size.images).tolist()
        return denoising_loss(
            unet, scheduler, bank[chosen, frames], prompts.encode(chosen, chance), chance, IMAGE_NOISE_SHIFT
        )

    video_unet = channels_last(build_video_unet(unet, size).to(device))
    if not training.begin("unet", video_unet):
        fraction = 0.0 if (training.work / "video.pt").exists() else FRACTIONS["images"]
        images = nn.ModuleDict({"unet": unet, "text_encoder": encoder})
        with plain_attention(unet):
            train(Stage("images", images, image_loss, 1e-3), training, fraction)
        video_unet.load_state_dict(unet.state_dict(), strict=False)  # all but the motion modules

    def video_loss(chance: Chance) -> Tensor:
        chosen = chance.numpy.integers(len(bank), size=size.clips).tolist()
        text = prompts.encode(chosen, chance).repeat_interleave(world.FRAMES, dim=0)
        return denoising_loss(video_unet, scheduler, bank[chosen].transpose(1, 2), text, chance, VIDEO_NOISE_SHIFT)

    video = nn.ModuleDict({"unet": video_unet, "text_encoder": encoder})
    with plain_attention(video_unet):
        train(Stage("video", video, video_loss, 1e-3), training, FRACTIONS["video"])
    return AnimateDiffPipeline(
        vae=vae.eval(),
        text_encoder=encoder.eval(),
        tokenizer=text.tokenizer(),
        unet=video_unet.eval(),
        motion_adapter=None,
        scheduler=scheduler,
    )


def main() -> None:
    """Train and export, as the command line says."""
    training, folder = arguments("Train tiny-animatediff, a small text-to-video model.", "animatediff", minutes=105)
    export(run(training), folder)


if __name__ == "__main__":
    main()
