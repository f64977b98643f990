"""Exercises of notebook 13: the loop of a pipeline, the options of its scheduler, and the largest batch that fits."""

from __future__ import annotations

import torch

from course_utils.checks.core import Exercise

SCALED = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}  # Stable Diffusion's


# ------------------------------------------------------------------ one loop for every scheduler
def loop_case(g: torch.Generator, i: int) -> tuple:
    """(scheduler of diffusers, model (xt, t) -> eps, noise, steps); the model knows the best answer for N(1, 1/4)."""
    import diffusers

    kinds = ("EulerDiscrete", "DDIM", "DPMSolverMultistep", "EulerDiscrete", "UniPCMultistep")
    options = {**SCALED, "timestep_spacing": "trailing", "clip_sample": False}
    scheduler = getattr(diffusers, f"{kinds[i]}Scheduler").from_config(options)
    alpha_bar = scheduler.alphas_cumprod.clone()

    def model(xt, t):
        a = alpha_bar[int(t)]
        return (1 - a).sqrt() * (xt - a.sqrt()) / (0.25 * a + 1 - a)

    return scheduler, model, torch.randn(3, 2, generator=g), 4 + i


def denoise(scheduler, model, noise, steps, start=True, scale=True, keep=False, skip=0):
    """The loop, with slips to switch on."""
    scheduler.set_timesteps(steps)
    x = noise * scheduler.init_noise_sigma if start else noise
    for t in scheduler.timesteps[: len(scheduler.timesteps) - skip]:
        given = scheduler.scale_model_input(x, t) if scale else x
        x = scheduler.step(model(given, t), t, given if keep else x).prev_sample
    return x


LOOP = Exercise(
    reference=denoise,
    cases=loop_case,
    mistakes=(
        (
            "the model sees xt as it is; some schedulers need scheduler.scale_model_input(x, t) before it.",
            lambda *args: denoise(*args, scale=False),
        ),
        (
            "the noise is not multiplied by scheduler.init_noise_sigma; Euler starts far out.",
            lambda *args: denoise(*args, start=False),
        ),
        (
            "both parts of the contract are missing: scheduler.init_noise_sigma and scheduler.scale_model_input.",
            lambda *args: denoise(*args, start=False, scale=False),
        ),
        (
            "step gets what the model saw; give it x itself, unscaled.",
            lambda *args: denoise(*args, keep=True),
        ),
        ("one step is missing: go over all of scheduler.timesteps.", lambda *args: denoise(*args, skip=1)),
        (
            "the noise comes back: put what step returns into x, .prev_sample.",
            lambda scheduler, model, noise, steps: noise,
        ),
    ),
    hints=(
        "Four names make the contract: set_timesteps, init_noise_sigma, scale_model_input, step.",
        "Scale the noise once; in the loop scale what the model sees, and hand step the model's answer, t and x.",
        "For each t: x = scheduler.step(model(scheduler.scale_model_input(x, t), t), t, x).prev_sample.",
    ),
)


# ------------------------------------------------------------------ which options differ
NAMES = ("beta_schedule", "clip_sample", "prediction_type", "steps_offset", "timestep_spacing", "use_karras_sigmas")
VALUES = {
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "clip_sample": (True, False),
    "prediction_type": ("epsilon", "v_prediction"),
    "steps_offset": (0, 1),
    "timestep_spacing": ("leading", "trailing"),
    "use_karras_sigmas": (False, True),
}


def options_case(g: torch.Generator, i: int) -> tuple:
    """(config it was trained with, config in use, defaults): some options unsaid, two that never matter."""

    def pick(count):
        return int(torch.randint(count, (), generator=g))

    def config(version):
        said = {name: VALUES[name][pick(len(VALUES[name]))] for name in NAMES if pick(3)}
        return {"_class_name": ("DDIMScheduler", "EulerDiscreteScheduler")[pick(2)], "_version": version, **said}

    defaults = {name: VALUES[name][0] for name in NAMES}
    trained, used = config("0.30"), config("0.42")
    trained.update(clip_sample=False, prediction_type="v_prediction", timestep_spacing="trailing")
    used.update(timestep_spacing="trailing", beta_schedule="linear")
    used.update(use_karras_sigmas=i % 2 == 0)
    for name in ("beta_schedule", "use_karras_sigmas"):
        trained.pop(name, None)  # unsaid, and the default: a difference only where the other says something else
    for name in ("clip_sample", "prediction_type"):
        used.pop(name, None)  # unsaid, and the default is another: a difference
    return trained, used, defaults


def suspects(trained, used, defaults):
    """The names of the options that differ, sorted, where what is not said is the default."""
    return [name for name in sorted(defaults) if trained.get(name, defaults[name]) != used.get(name, defaults[name])]


OPTIONS = Exercise(
    reference=suspects,
    cases=options_case,
    mistakes=(
        (
            "what one of them does not say has its default; here it counts as different from everything.",
            lambda trained, used, defaults: [n for n in sorted(defaults) if trained.get(n) != used.get(n)],
        ),
        (
            "only what both say is compared: what one of them leaves out has its default, and that may differ.",
            lambda trained, used, defaults: [
                n for n in sorted(defaults) if n in trained and n in used and trained[n] != used[n]
            ],
        ),
        (
            "only what the trained one says is compared; what the other says matters too.",
            lambda trained, used, defaults: [
                n for n in sorted(defaults) if n in trained and trained[n] != used.get(n, defaults[n])
            ],
        ),
        (
            "names with an underscore say which class and version wrote the file; they change no picture.",
            lambda trained, used, defaults: sorted(
                [*suspects(trained, used, defaults), *(n for n in trained if n[0] == "_" and trained[n] != used.get(n))]
            ),
        ),
        (
            "these are the options that agree.",
            lambda trained, used, defaults: [n for n in sorted(defaults) if n not in suspects(trained, used, defaults)],
        ),
        (
            "the names are not sorted.",
            lambda trained, used, defaults: suspects(trained, used, defaults)[::-1],
        ),
    ),
    hints=(
        "A config need not say everything: what it leaves out has the default. Fill both up first.",
        "Go over the names in defaults, sorted; compare trained.get(name, default) with used.get(name, default).",
        "[n for n in sorted(defaults) if trained.get(n, defaults[n]) != used.get(n, defaults[n])].",
    ),
)


# ------------------------------------------------------------------ the largest batch that fits
class Peak:
    """Measures, as one would by drawing n pictures: bytes at the worst moment. Counts how often it was asked."""

    def __init__(self, fixed: int, each: int, block: int):
        self.fixed, self.each, self.block, self.calls = fixed, each, block, 0

    def __call__(self, n: int) -> int:
        self.calls += 1
        blocks = -(-n // self.block)  # memory is handed out in blocks
        return self.fixed + blocks * self.block * self.each


def batch_case(g: torch.Generator, i: int) -> tuple:
    """(peak, budget): weights, then something for each picture; in the last case not even one picture fits."""
    fixed, each = (int(x) for x in torch.randint(50, 500, (2,), generator=g))
    block, count = (1, 4, 1, 8, 1)[i], int(torch.randint(90, 200, (), generator=g))
    budget = fixed + count * each + each // 2
    return Peak(fixed, each, block), budget if i < 4 else fixed + each // 2


def largest_batch(peak, budget):
    """Double while it fits, then halve the gap."""
    low, high = 0, 1
    while peak(high) <= budget:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if peak(middle) <= budget else (low, middle)
    return low


def doubled(peak, budget):
    """The largest power of two that fits."""
    n = 1
    while peak(2 * n) <= budget:
        n *= 2
    return n


def few_calls(answer, args) -> str | None:
    """A complaint about an answer that measures every size: a hundred drawings of up to a hundred pictures."""
    answer(*args)
    if args[0].calls > 40:
        return f"it measures {args[0].calls} times; double the batch while it fits, then halve the gap."
    return None


BATCH = Exercise(
    reference=largest_batch,
    cases=batch_case,
    mistakes=(
        (
            "the weights are counted for each picture: peak(1) holds them once, however many pictures there are.",
            lambda peak, budget: budget // peak(1),
        ),
        (
            "this is the first batch that does not fit: one too many.",
            lambda peak, budget: largest_batch(peak, budget) + 1,
        ),
        (
            "only powers of two are tried: look between the last that fits and the first that does not.",
            doubled,
        ),
        (
            "extrapolated from one and two pictures: memory comes in blocks, so measure near the limit.",
            lambda peak, budget: 1 + (budget - peak(1)) // max(1, peak(2) - peak(1)),
        ),
        (
            "where not even one picture fits, the answer is 0.",
            lambda peak, budget: max(1, largest_batch(peak, budget)),
        ),
    ),
    hints=(
        "Each call of peak is a drawing, so ask few times: sizes that fit come before sizes that do not.",
        "Keep two numbers: low fits, high does not. Double high until it no longer fits, then try their middle.",
        "while high - low > 1: middle = (low + high) // 2; whichever side peak(middle) <= budget says moves there.",
    ),
    examine=few_calls,
)
