"""Our U-Net, DDIM and Stable Diffusion beside diffusers' own: the same weights and work, in pictures/s.

    make bench

The two take turns, and medians count, so that a busy machine slows both alike. A ratio above 1: ours is faster.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from itertools import count, cycle

import torch
from diffusers import DDIMScheduler, UNet2DModel
from torch.utils.flop_counter import FlopCounterMode

from course_utils.checkpoints import scaling_factor
from course_utils.data import load_emoji
from course_utils.datasets.compose import Composer
from course_utils.decoder.vae import VAE
from course_utils.devices import PRECISIONS, autocast, best_device, describe, has_bfloat16, synchronize
from course_utils.finetune.lora import set_adapter
from course_utils.generator.objectives import diffusion_loss
from course_utils.generator.samplers import ddim
from course_utils.generator.samplers import sample as run_sampler
from course_utils.generator.schedules import make_schedule
from course_utils.generator.unet import UNet
from course_utils.interop.diffusers import to_pipeline, to_unet
from course_utils.interop.lora_files import load_shipped_lora
from course_utils.systems.stable_diffusion import CONTEXT_DIM, LATENT, StableDiffusion, make_unet
from course_utils.systems.text_pixel import TextPixel

ROUNDS, BATCH, TRAIN_STEPS, DRAW_STEPS = 9, 16, 4, 10
PROMPT, PROMPT_STEPS, GUIDANCE = "pink butterfly, noto style, blue sky and grass", 20, 2.0
WIDTHS, WORDS, GEMM = ((40, 80, 160), (64, 128, 256)), 24, 2048
# the network of notebook 02, inside its patches: 32 x 32 pixels are 12 channels of 16 x 16
CHANNELS, HEAD, GROUPS, SIZE = (32, 64, 128), 32, 8, 16


def networks(device):
    """Both networks with the same weights, each loaded strictly from the other."""
    ours = UNet(12, 12, CHANNELS, num_res_blocks=1, attention=(False, True, True), head_dim=HEAD, groups=GROUPS)
    theirs = UNet2DModel(
        sample_size=SIZE,
        in_channels=12,
        out_channels=12,
        block_out_channels=CHANNELS,
        layers_per_block=1,
        norm_num_groups=GROUPS,
        attention_head_dim=HEAD,
        down_block_types=["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
        up_block_types=["AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    )
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return [network.to(device, memory_format=torch.channels_last) for network in (ours, theirs)]


def train_ours(model, x0, schedule, optimizer):
    """Take TRAIN_STEPS steps with the course's loss."""
    for _ in range(TRAIN_STEPS):
        diffusion_loss(model, x0, schedule, "eps").backward()
        optimizer.step()
        optimizer.zero_grad()


def train_theirs(model, x0, scheduler, optimizer):
    """Take TRAIN_STEPS steps as diffusers' own training examples do."""
    for _ in range(TRAIN_STEPS):
        eps, t = torch.randn_like(x0), torch.randint(scheduler.config.num_train_timesteps, (len(x0),), device=x0.device)
        torch.nn.functional.mse_loss(model(scheduler.add_noise(x0, eps, t), t).sample, eps).backward()
        optimizer.step()
        optimizer.zero_grad()


@torch.inference_mode()
def draw_theirs(model, xT, scheduler):
    """Take DRAW_STEPS steps of DDIM."""
    scheduler.set_timesteps(DRAW_STEPS)
    for t in scheduler.timesteps:
        xT = scheduler.step(model(xT, t).sample, t, xT).prev_sample
    return xT


def prompt_to_picture(device):
    """Our Stable Diffusion and diffusers' pipeline as functions that draw PROMPT, (1, 3, 64, 64) in [0, 1]."""
    last = torch.channels_last  # for both
    parts = [TextPixel().text_encoder, make_unet(), VAE()]
    ours = StableDiffusion(*[part.eval().to(device, memory_format=last) for part in parts], scaling_factor())
    theirs = to_pipeline(ours).to(device)
    theirs.set_progress_bar_config(disable=True)
    for part in (theirs.unet, theirs.vae):
        part.to(memory_format=last)
    zT = torch.randn(1, *LATENT, generator=torch.Generator().manual_seed(0)).to(device)

    def draw_ours():
        *_, state = ours.txt2img(zT, [PROMPT], PROMPT_STEPS, GUIDANCE)
        return ours.decode(state.xt) / 2 + 0.5

    def draw_theirs():
        return theirs(
            PROMPT, num_inference_steps=PROMPT_STEPS, guidance_scale=GUIDANCE, latents=zT.clone(), output_type="pt"
        ).images

    return draw_ours, draw_theirs


def race(ours, theirs, device) -> tuple[float, float, float]:
    """Median seconds of ours and theirs, and the median of the rounds' ratios, taken in turns after a warm-up."""
    seconds = ([], [])
    for i in range(ROUNDS + 1):
        for side in ((0, 1), (1, 0))[i % 2]:  # whoever comes first, takes turns too
            synchronize(device)
            start = time.perf_counter()
            (ours, theirs)[side]()
            synchronize(device)
            if i:
                seconds[side].append(time.perf_counter() - start)
    ratios = [b / a for a, b in zip(*seconds, strict=True)]
    return statistics.median(seconds[0]), statistics.median(seconds[1]), statistics.median(ratios)


def gemm_peak(device, dtype) -> float:
    """Operations a second in a product of two 2048 x 2048 matrices: the best of what any network can reach here."""
    a, b = torch.randn(2, GEMM, GEMM).to(device, dtype)

    def multiply():
        torch.mm(a, b)
        synchronize(device)

    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        multiply()
        seconds.append(time.perf_counter() - start)
    return 2 * GEMM**3 / statistics.median(seconds)


def latent_works(model, device):
    """A training step and a call for drawing of a latent U-Net, as functions, in the precision of the moment."""
    generator = torch.Generator().manual_seed(0)
    z, target = (torch.randn(BATCH, *LATENT, generator=generator).to(device) for _ in range(2))
    context = torch.randn(BATCH, WORDS, CONTEXT_DIM, generator=generator).to(device)
    t = torch.randint(1000, (BATCH,), generator=generator).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)

    def call():
        with autocast(device):
            answer = model(z, t, context)
        return getattr(answer, "sample", answer)

    def train():
        torch.nn.functional.mse_loss(call().float(), target).backward()
        optimizer.step()
        optimizer.zero_grad()

    return train, torch.inference_mode()(call)


def latent_unets(device) -> None:
    """Print, for two widths and the precisions that the device has, how fast we and diffusers train and draw."""
    print(
        f"latent U-Nets of 16 x 16: pictures/s trained, and drawn in {PROMPT_STEPS} steps (guidance halves it); "
        "ours in % of the GEMM peak, the products within attention not counted"
    )
    kinds = ("train", 1), ("draw", PROMPT_STEPS)  # calls of the network for a picture
    names = ("float32", "bf16") if has_bfloat16(device) else ("float32",)
    if len(names) == 1:
        print("bfloat16 is left out: this device has none of its own")
    for name in names:
        os.environ["COURSE_PRECISION"] = name
        peak = gemm_peak(device, PRECISIONS[name])
        print(f"{f'{name}, {peak / 1e9:,.0f} GFLOP/s':24}{'course':>14}{'diffusers':>12}{'ratio':>8}{'of peak':>9}")
        for channels in WIDTHS:
            ours = make_unet(channels=channels).to(device)
            theirs = to_unet(ours, LATENT[-1]).train().to(device, memory_format=torch.channels_last)
            works = zip(kinds, latent_works(ours, device), latent_works(theirs, device), strict=True)
            for (kind, calls), left, right in works:
                with FlopCounterMode(display=False) as counter:
                    left()
                a, b, ratio = race(left, right, device)
                share = counter.get_total_flops() / a / peak
                row = f"{kind} {'/'.join(map(str, channels))}"
                print(f"{row:24}{BATCH / a / calls:14.1f}{BATCH / b / calls:12.1f}{ratio:8.2f}{share:9.0%}")
    del os.environ["COURSE_PRECISION"]


def fastest(work, times: int = 5) -> float:
    """The shortest of some measurements, in seconds of this process: others may keep the machine busy meanwhile."""
    seconds = []
    for _ in range(times):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds)


def other_figures() -> None:
    """Print how fast pictures are composed and a LoRA is swapped."""
    composer, seeds = Composer(load_emoji(64)), count()
    print(f"composing: {400 / fastest(lambda: composer.compose(400, next(seeds))):,.0f} pictures/s of 64 x 64 a core")
    network, adapters = make_unet(), cycle([load_shipped_lora("xp7"), load_shipped_lora("style-3d")])
    print(f"swapping a LoRA: {1000 * fastest(lambda: set_adapter(network, *next(adapters))):.0f} ms")


def main() -> int:
    """Print the table; the exit status is 0 whoever wins."""
    device = best_device()
    ours, theirs = networks(device)
    schedule, scheduler = make_schedule("linear"), DDIMScheduler(timestep_spacing="leading")
    shape = (BATCH, 12, SIZE, SIZE)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device, memory_format=torch.channels_last)
    ours_drew = run_sampler(ddim, ours, x, schedule, steps=DRAW_STEPS)
    difference = (ours_drew - draw_theirs(theirs, x, scheduler)).abs().max()
    optimizers = [torch.optim.AdamW(model.parameters(), 1e-4, fused=True) for model in (ours, theirs)]
    print(
        f"{describe(device)}, {torch.get_num_threads()} threads, {sum(p.numel() for p in ours.parameters()):,} "
        f"parameters, batch {BATCH}, median of {ROUNDS} rounds in turns"
    )
    print(f"the same pictures after {DRAW_STEPS} steps of DDIM: largest difference {difference:.1e}")
    system, pipeline = prompt_to_picture(device)
    print(
        f"Stable Diffusion, one prompt, {PROMPT_STEPS} steps, guidance {GUIDANCE:g}: largest difference of the "
        f"pictures {(system() - pipeline()).abs().max():.1e}"
    )
    races = {
        "sampling": (
            lambda: run_sampler(ddim, ours, x, schedule, steps=DRAW_STEPS),
            lambda: draw_theirs(theirs, x, scheduler),
            BATCH,
        ),
        "training": (
            lambda: train_ours(ours, x, schedule, optimizers[0]),
            lambda: train_theirs(theirs, x, scheduler, optimizers[1]),
            BATCH * TRAIN_STEPS,
        ),
        "prompt": (system, pipeline, 1),
    }
    print(f"{'':10}{'course':>14}{'diffusers':>14}{'ratio':>8}")
    for name, (left, right, pictures) in races.items():
        a, b, ratio = race(left, right, device)
        print(f"{name:10}{pictures / a:8.1f} pic/s{pictures / b:8.1f} pic/s{ratio:8.2f}")
    latent_unets(device)
    other_figures()
    return 0


if __name__ == "__main__":
    sys.exit(main())
