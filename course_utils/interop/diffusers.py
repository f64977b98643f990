"""Our modules in the classes of diffusers and transformers, and back: only configurations need to be translated.

Names and shapes are the same, so the weights fit strictly, both ways.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from course_utils.decoder.vae import VAE
from course_utils.errors import CheckpointError, InputError
from course_utils.generator.latent_unet import LatentUNet
from course_utils.generator.schedules import Schedule, cosine_beta, linear_beta, scaled_linear_beta, zero_terminal_snr
from course_utils.systems.stable_diffusion import StableDiffusion
from course_utils.text_encoder.clip import CLIPTextModel
from course_utils.text_encoder.tokenizer import END, PAD, START

if TYPE_CHECKING:  # heavy, and imported where they are used
    from diffusers import AutoencoderKL, DiffusionPipeline, DPMSolverMultistepScheduler, UNet2DConditionModel
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}  # diffusers' names and ours
ASSUMED = {  # what our classes do, wherever a configuration could ask for something else with the same weights
    "text_encoder": {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    "unet": {
        "act_fn": "silu",
        "norm_eps": 1e-5,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "downsample_padding": 1,
        "mid_block_scale_factor": 1,
        "center_input_sample": False,
        "only_cross_attention": False,
        "resnet_time_scale_shift": "default",
        "time_embedding_type": "positional",
    },
    "vae": {"act_fn": "silu"},
    "scheduler": {  # steps spread by σ, and ways of DPM-Solver that ours does not go
        "use_karras_sigmas": False,
        "use_exponential_sigmas": False,
        "use_beta_sigmas": False,
        "use_flow_sigmas": False,
        "use_lu_lambdas": False,
        "thresholding": False,
        "final_sigmas_type": "zero",
        "lambda_min_clipped": -math.inf,
    },
}


# ------------------------------------------------------------------ from our modules to theirs
def to_pipeline(system: StableDiffusion, size: int = 64) -> DiffusionPipeline:
    """Return diffusers' pipeline with copies of the weights of a system; 9 channels make it one for inpainting."""
    import diffusers
    from transformers import PreTrainedTokenizerFast

    names = {4: "StableDiffusionPipeline", 9: "StableDiffusionInpaintPipeline"}
    if system.vocabulary is None or system.unet.conv_in.in_channels not in names:
        raise InputError("only a system with the course's tokenizer and a U-Net of 4 or 9 channels can be exported")
    vae = to_vae(system.vae, size, system.scaling_factor)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(system.vocabulary),
        bos_token=START,
        eos_token=END,
        pad_token=PAD,
        model_max_length=len(system.text_encoder.embeddings.position_embedding.weight),
    )
    return getattr(diffusers, names[system.unet.conv_in.in_channels])(
        vae,
        to_text_encoder(system.text_encoder, tokenizer),
        tokenizer,
        to_unet(system.unet, size // 2 ** (len(vae.config.block_out_channels) - 1)),
        to_scheduler(system),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def load_weights(theirs: nn.Module, ours: nn.Module) -> nn.Module:
    """Load the weights of our module strictly into its peer, and return that, in eval mode."""
    theirs.load_state_dict(ours.state_dict())
    return theirs.eval()


def to_text_encoder(ours: CLIPTextModel, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """Return transformers' text tower with the weights of ours."""
    import transformers

    vocab_size, width = ours.embeddings.token_embedding.weight.shape
    config = transformers.CLIPTextConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=len(ours.encoder.layers),
        num_attention_heads=ours.encoder.layers[0].self_attn.num_heads,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ours.eos_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return load_weights(transformers.CLIPTextModel(config), ours)


def to_unet(ours: LatentUNet, size: int) -> UNet2DConditionModel:
    """Return diffusers' U-Net with the weights of ours."""
    from diffusers import UNet2DConditionModel

    kinds = ["CrossAttn" if hasattr(block, "attentions") else "" for block in ours.down_blocks]
    text = ours.mid_block.attentions[0].transformer_blocks[0].attn2
    added = (
        {}
        if ours.add_embedding is None
        else {"addition_embed_type": "text", "addition_embed_type_num_heads": ours.add_embedding.pool.num_heads}
    )
    theirs = UNet2DConditionModel(
        sample_size=size, in_channels=ours.conv_in.in_channels, out_channels=ours.conv_out.out_channels,
        block_out_channels=[block.resnets[0].conv1.out_channels for block in ours.down_blocks],
        down_block_types=[f"{kind}DownBlock2D" for kind in kinds],
        up_block_types=[f"{kind}UpBlock2D" for kind in reversed(kinds)],
        layers_per_block=len(ours.down_blocks[0].resnets), norm_num_groups=ours.conv_norm_out.num_groups,
        cross_attention_dim=text.to_k.in_features, attention_head_dim=text.num_heads, **added,
    )  # fmt: skip  # attention_head_dim means the number of heads
    return load_weights(theirs, ours)


def to_vae(ours: VAE, size: int, scaling_factor: float) -> AutoencoderKL:
    """Return diffusers' autoencoder with the weights of ours."""
    from diffusers import AutoencoderKL

    levels = ours.encoder.down_blocks
    theirs = AutoencoderKL(
        sample_size=size,
        in_channels=ours.encoder.conv_in.in_channels,
        out_channels=ours.decoder.conv_out.out_channels,
        latent_channels=ours.post_quant_conv.in_channels,
        scaling_factor=scaling_factor,
        block_out_channels=[level.resnets[0].conv1.out_channels for level in levels],
        down_block_types=["DownEncoderBlock2D"] * len(levels),
        up_block_types=["UpDecoderBlock2D"] * len(levels),
        layers_per_block=len(levels[0].resnets),
        norm_num_groups=ours.encoder.conv_norm_out.num_groups,
    )
    return load_weights(theirs, ours)


def to_scheduler(system: StableDiffusion) -> DPMSolverMultistepScheduler:
    """Return diffusers' DPM-Solver++ (2M) with the schedule of a system."""
    from diffusers import DPMSolverMultistepScheduler

    beta = system.schedule.beta
    cosine = torch.equal(beta, cosine_beta(len(beta)))
    return DPMSolverMultistepScheduler(
        num_train_timesteps=len(beta),
        beta_schedule="squaredcos_cap_v2",
        trained_betas=None if cosine else beta.tolist(),
        timestep_spacing=system.spacing,
        steps_offset=system.offset if system.spacing == "leading" else 1,  # other spacings leave it unread
        prediction_type={ours: theirs for theirs, ours in PREDICTIONS.items()}[system.prediction],
        final_sigmas_type="zero",
    )


# ------------------------------------------------------------------ from their configurations to our modules
class Config(dict):
    """The numbers of a part; asking for one that is not there says so in one sentence."""

    def __missing__(self, key):
        raise CheckpointError(f"the configuration lacks {key!r}: the course opens Stable Diffusion 1.x")

    def check(self, part: str) -> None:
        """Raise CheckpointError if our classes cannot do what the configuration of a part asks for."""
        for key, ours in ASSUMED[part].items():
            if self.get(key) not in (None, ours):  # null: whatever is usual
                raise CheckpointError(
                    f"{part} asks for {key} = {self[key]!r}, and the course's has {ours!r}: "
                    "it opens Stable Diffusion 1.x"
                )


def make_text_encoder(config: Config) -> CLIPTextModel:
    """Return our text tower with a configuration's numbers."""
    return CLIPTextModel(
        config["vocab_size"],
        config["max_position_embeddings"],
        config["hidden_size"],
        config["num_hidden_layers"],
        config["num_attention_heads"],
        eos_id=config.get("eos_token_id", 1),
    )


def make_unet(config: Config) -> LatentUNet:
    """Return our U-Net with a configuration's numbers."""
    heads = config.get("num_attention_heads") or config["attention_head_dim"]  # which means the number of heads
    if not isinstance(heads, int):
        raise CheckpointError(
            f"unet has {heads} heads, and the course's as many on every level: it opens Stable Diffusion 1.x"
        )
    pooled = config.get("addition_embed_type") == "text"
    return LatentUNet(
        config["in_channels"],
        config["out_channels"],
        config["block_out_channels"],
        config["layers_per_block"],
        ["CrossAttn" in kind for kind in config["down_block_types"]],
        num_heads=heads,
        groups=config.get("norm_num_groups", 32),
        context_dim=config["cross_attention_dim"],
        pool_heads=config["addition_embed_type_num_heads"] if pooled else None,
    )


def make_vae(config: Config) -> VAE:
    """Return our autoencoder with a configuration's numbers."""
    return VAE(
        config["block_out_channels"],
        config["latent_channels"],
        config["layers_per_block"],
        config.get("norm_num_groups", 32),
        config["in_channels"],
    )


def scheduler_options(config: Config) -> dict:
    """Return what a scheduler's configuration says of sampling: {"schedule", "prediction", "spacing", "offset"}."""
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        raise CheckpointError(f"unknown prediction {prediction!r}: the course knows {', '.join(PREDICTIONS)}")
    spacing = config.get("timestep_spacing", "linspace")  # what diffusers' solver takes when nothing is said
    return {
        "schedule": read_schedule(config),
        "prediction": PREDICTIONS[prediction],
        "spacing": spacing,
        "offset": config.get("steps_offset", 0) if spacing == "leading" else 0,
    }


def read_schedule(config: Config) -> Schedule:
    """Return the Schedule that a scheduler's configuration asks for."""
    count, start, end = config["num_train_timesteps"], config["beta_start"], config["beta_end"]
    betas = {  # the first two of ours scale by 1000 / T
        "linear": lambda: linear_beta(count, start * count / 1000, end * count / 1000),
        "scaled_linear": lambda: scaled_linear_beta(count, start * count / 1000, end * count / 1000),
        "squaredcos_cap_v2": lambda: cosine_beta(count),
    }
    if config.get("trained_betas"):
        beta = torch.tensor(config["trained_betas"], dtype=torch.float64)
    elif config["beta_schedule"] in betas:
        beta = betas[config["beta_schedule"]]()
    else:
        raise CheckpointError(f"unknown schedule {config['beta_schedule']!r}: the course knows {', '.join(betas)}")
    return Schedule.from_beta(zero_terminal_snr(beta) if config.get("rescale_betas_zero_snr") else beta)
