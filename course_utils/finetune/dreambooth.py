"""DreamBooth: teach a generator one subject, and remind it meanwhile of the class the subject belongs to.

pictures of the subject,        "XP7 car" ──► L_instance ─┐
                                                          ├─► L_instance + prior_weight * L_prior
what the model drew before, for "car"     ──► L_prior ────┘
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from course_utils.errors import InputError
from course_utils.generator.objectives import diffusion_loss, sample_timesteps
from course_utils.generator.schedules import Schedule


@dataclass(frozen=True)
class Examples:
    """Latents z (N, C, h, w), and what the text encoder made of each one's prompt, context (N, L, D).

    Both are made once, before the training. Raises InputError unless there are as many contexts as latents, at least
    one. Built in notebook 10.
    """

    z: torch.Tensor
    context: torch.Tensor

    def __post_init__(self):
        if len(self.z) != len(self.context) or not len(self.z):
            raise InputError(f"give every latent its context: there are {len(self.z)} and {len(self.context)}")

    def __len__(self) -> int:
        return len(self.z)

    def sample_batch(self, n: int, generator: torch.Generator | None) -> Examples:
        """n of the examples, drawn with replacement."""
        index = torch.randint(len(self), (n,), generator=generator)
        return Examples(self.z[index], self.context[index])


def draw_pairs(instance: Examples, prior: Examples, n: int, generator: torch.Generator | None) -> Examples:
    """One batch of 2n Examples: n of the subject, then n of its class. Built in notebook 10."""
    first, second = instance.sample_batch(n, generator), prior.sample_batch(n, generator)
    return Examples(torch.cat([first.z, second.z]), torch.cat([first.context, second.context]))


def dreambooth_loss(
    network: Callable,
    pairs: Examples,
    schedule: Schedule,
    prediction: str = "eps",
    generator: torch.Generator | None = None,
    prior_weight: float = 1.0,
    timestep_power: float = 1.0,
) -> torch.Tensor:
    """L_instance + prior_weight * L_prior, a scalar, over one batch in a single pass through the network.

    network(zt, t, context=...) -> like zt; pairs: 2n Examples, the first half the subject's, the second the class's;
    prior_weight: 1 in the paper, 0 gives the class no say; timestep_power: see `sample_timesteps`. Raises InputError
    for an odd number of examples or a weight below 0.
    Ruiz et al. 2023 (DreamBooth), section 3.3. Built in notebook 10.
    """
    if len(pairs) % 2 or not prior_weight >= 0:
        raise InputError(
            f"DreamBooth wants two halves and a weight of at least 0, not {len(pairs)} examples and {prior_weight!r}"
        )
    half = torch.ones(len(pairs) // 2, device=pairs.z.device)
    weight = 2 * torch.cat([half, prior_weight * half])  # the mean over 2n halves each mean over n
    t = sample_timesteps(len(pairs), schedule.num_steps, timestep_power, generator)
    return diffusion_loss(network, pairs.z, schedule, prediction, generator, lambda t: weight, t, context=pairs.context)
