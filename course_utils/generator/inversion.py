"""From picture to noise: DDIM run backwards, and the way between two noises.

picture -> invert -> noise -> (slerp to another, another condition, ...) -> a sampler -> picture
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from course_utils.errors import InputError
from course_utils.generator.objectives import Model, to_eps, to_x0
from course_utils.generator.samplers import Spacing, State, alpha_bar_at, check_noise, timesteps
from course_utils.generator.schedules import Schedule


@torch.no_grad()
def invert(
    model: Model,
    x0: torch.Tensor,
    schedule: Schedule,
    steps: int = 50,
    prediction: str = "eps",
    generator: torch.Generator | None = None,
    clip: bool = False,
    spacing: Spacing = "trailing",
    start: int = 0,
    ahead: bool = True,
) -> Iterator[State]:
    """Take DDIM's steps the other way, from a picture to the noise that would draw it.

    x0: pictures (B, ...) that count as step `start`: 0 for clean ones, or the t they have been noised to; ahead: ask
    the network for the step we go to, as diffusers does, or (False) for the one we stand at; generator: not used; the
    others as in `ddim`. Raises InputError where no step is left after `start`.
    DDIM, section 4.3 (eq. 13 in reverse). Built in notebook 03.
    """
    table = [t for t in timesteps(steps, schedule.num_steps, spacing).flip(0).tolist() if t > start or t == start == 0]
    if not table:
        raise InputError(f"no step is left between start = {start} and the noise: use more steps or an earlier start")
    xt, t = check_noise(x0), start
    for step, t_next in enumerate(table, start=1):
        alpha_bar_next = alpha_bar_at(schedule, t_next)
        now, then = (torch.full((len(xt),), i, device=xt.device) for i in (t, t_next))
        pred = model(xt, then if ahead else now)
        eps, x0 = to_eps(pred, xt, now, schedule, prediction), to_x0(pred, xt, now, schedule, prediction)
        x0 = x0.clamp(-1, 1) if clip else x0
        xt, t = alpha_bar_next**0.5 * x0 + (1 - alpha_bar_next) ** 0.5 * eps, t_next
        yield State(step, t, xt, x0)


def slerp(a: torch.Tensor, b: torch.Tensor, share: float | torch.Tensor) -> torch.Tensor:
    """The point at `share` (0: a, 1: b) of the arc between a and b, (B, ...) each: for noises, not pictures.

    share: a number or (B,). Every item turns by an even angle and keeps its length where a line would cut through the
    ball; parallel items are mixed in a straight line. Shoemake 1985. Built in notebook 03.
    """
    share = torch.as_tensor(share, dtype=a.dtype, device=a.device).expand(len(a))
    share = share.reshape(-1, *[1] * (a.ndim - 1))
    x, y = a.flatten(1), b.flatten(1)
    cosine = (x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1))
    angle = torch.acos(cosine.clamp(-1, 1)).reshape(share.shape)
    small = angle.sin() < 1e-4
    sine = torch.where(small, torch.ones_like(angle), angle.sin())
    near, far = torch.sin((1 - share) * angle) / sine, torch.sin(share * angle) / sine
    return torch.where(small, 1 - share, near) * a + torch.where(small, share, far) * b
