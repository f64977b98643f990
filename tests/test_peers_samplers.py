"""Every sampler equals its diffusers scheduler step by step; with an exact score, its error falls at its order."""

import math

import pytest
import torch

from course_utils.generator import objectives, samplers
from course_utils.generator.inversion import invert, slerp
from course_utils.generator.schedules import make_schedule

NAMES = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
KINDS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
SAMPLERS = {"ddpm": samplers.ddpm, "ddim": samplers.ddim, "dpmpp_2m": samplers.dpmpp_2m}


def peer(kind, name="linear", **options):
    """A scheduler of diffusers with coefficients in float64 as ours are: its own float32 tables drift up to 2e-4."""
    import diffusers

    scheduler = getattr(diffusers, kind)(beta_schedule=NAMES[name], **options)
    scheduler.alphas_cumprod = make_schedule(name).alpha_bar.clone()
    if hasattr(scheduler, "lambda_t"):
        scheduler.alpha_t = scheduler.alphas_cumprod.sqrt()
        scheduler.sigma_t = (1 - scheduler.alphas_cumprod).sqrt()
        scheduler.lambda_t = scheduler.alpha_t.log() - scheduler.sigma_t.log()
    if hasattr(scheduler, "initial_alpha_cumprod"):
        scheduler.initial_alpha_cumprod = scheduler.alphas_cumprod[0]
    return scheduler


class TinyNet(torch.nn.Module):
    """A random network of two convolutions that hears the step."""

    def __init__(self, seed):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first, self.last = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, xt, t):
        wave = torch.sin(t / 100).reshape(-1, 1, 1, 1).to(xt)
        return self.last(torch.tanh(self.first(xt) + wave))


def noise(seed=0, shape=(2, 3, 8, 8)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def walk(scheduler, net, xt, seed=0, **options):
    """The states of diffusers' scheduler, driven by a network; seed: None for a scheduler that takes no generator."""
    states = []
    if seed is not None:
        options["generator"] = torch.Generator().manual_seed(seed)
    for t in scheduler.timesteps:
        xt = scheduler.step(net(xt, t.repeat(len(xt))), t, xt, **options).prev_sample
        states.append(xt)
    return states


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for state, xt in zip(ours, theirs, strict=True):
        assert (state.xt - xt).abs().max() < 1e-5 * max(1.0, float(xt.abs().max())), state.t


# ------------------------------------------------------------------ step by step
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("spacing", samplers.SPACINGS)
@pytest.mark.parametrize("prediction", KINDS)
def test_ddpm(prediction, spacing, seed):
    theirs = peer("DDPMScheduler", "linear", prediction_type=KINDS[prediction], timestep_spacing=spacing)
    theirs.set_timesteps(25)
    net, xT = TinyNet(seed), noise(seed)
    ours = list(
        samplers.ddpm(
            net, xT, make_schedule("linear"), 25, prediction, torch.Generator().manual_seed(seed), spacing=spacing
        )
    )
    assert_same(ours, walk(theirs, net, xT, seed))


@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("prediction", KINDS)
def test_ddim(prediction, spacing, name, eta):
    theirs = peer("DDIMScheduler", name, prediction_type=KINDS[prediction], timestep_spacing=spacing)
    theirs.set_timesteps(20)
    net, xT = TinyNet(2), noise(2)
    ours = list(
        samplers.ddim(
            net, xT, make_schedule(name), 20, prediction, torch.Generator().manual_seed(5), spacing=spacing, eta=eta
        )
    )
    assert_same(ours, walk(theirs, net, xT, 5, eta=eta))


@pytest.mark.parametrize("prediction", KINDS)
def test_ddim_with_linspace(prediction):
    """diffusers' DDIM steps a fixed stride whatever its table says; its first-order solver keeps to the table."""
    net, xT, schedule = TinyNet(2), noise(2), make_schedule("linear")
    theirs = peer("DPMSolverMultistepScheduler", solver_order=1, prediction_type=KINDS[prediction])
    table = samplers.timesteps(21, 1000, "linspace")[:-1]  # its table leaves t = 0 out
    theirs.set_timesteps(20)
    assert theirs.timesteps.tolist() == table.tolist()
    states = walk(theirs, net, xT)[:-1]  # and ends with a jump to the picture, where ours visits t = 0
    ours = list(samplers.ddim(net, xT, schedule, 21, prediction, clip=False, spacing="linspace"))[:-2]
    assert_same(ours, states)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("steps", [3, 14, 15, 40])
@pytest.mark.parametrize("spacing", samplers.SPACINGS)
@pytest.mark.parametrize("prediction", KINDS)
def test_dpmpp_2m(prediction, spacing, steps, seed):
    theirs = peer(
        "DPMSolverMultistepScheduler",
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        prediction_type=KINDS[prediction],
        timestep_spacing=spacing,
    )
    theirs.set_timesteps(steps)
    assert samplers.solver_timesteps(steps, spacing=spacing).tolist() == theirs.timesteps.tolist()
    net, xT = TinyNet(seed), noise(seed)
    ours = list(samplers.dpmpp_2m(net, xT, make_schedule("linear"), steps, prediction, clip=False, spacing=spacing))
    assert_same(ours, walk(theirs, net, xT))


@pytest.mark.parametrize("name", ["linear", "scaled_linear"])
@pytest.mark.parametrize("prediction", KINDS)
def test_dpmpp_2m_clips(prediction, name):
    """Thresholding at 1 is clipping."""
    theirs = peer(
        "DPMSolverMultistepScheduler",
        name,
        prediction_type=KINDS[prediction],
        thresholding=True,
        sample_max_value=1.0,
        timestep_spacing="trailing",
    )
    theirs.set_timesteps(20)
    net, xT = TinyNet(3), noise(3)
    ours = list(samplers.dpmpp_2m(net, xT, make_schedule(name), 20, prediction))
    assert_same(ours, walk(theirs, net, xT))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("prediction", KINDS)
def test_invert(prediction, spacing, name, seed):
    theirs = peer(
        "DDIMInverseScheduler",
        name,
        prediction_type=KINDS[prediction],
        timestep_spacing=spacing,
        clip_sample=False,
        set_alpha_to_one=False,
    )
    theirs.set_timesteps(20)
    net, x0 = TinyNet(seed), noise(seed).clamp(-1, 1)
    ours = list(invert(net, x0, make_schedule(name), 20, prediction, spacing=spacing))
    assert_same(ours, walk(theirs, net, x0, seed=None))


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_a_seed_is_a_picture(sampler):
    """The same seed draws the same picture; DDIM and the solver draw nothing from the generator at all."""

    def run(seed):
        return samplers.sample(
            sampler,
            TinyNet(0),
            noise(0),
            make_schedule("cosine"),
            steps=8,
            generator=torch.Generator().manual_seed(seed),
        )

    assert torch.equal(run(1), run(1))
    assert torch.equal(run(1), run(2)) == (sampler is not samplers.ddpm)


# ------------------------------------------------------------------ exact oracles
MEAN, SPREAD = 0.4, 0.3


def gaussian_eps(schedule):
    """The exact noise predictor of data N(MEAN, SPREAD^2)."""

    def answer(xt, t):
        signal, sigma = schedule.at(t, xt)
        return sigma * (xt - signal * MEAN) / (signal**2 * SPREAD**2 + sigma**2)

    return answer


def exact_flow(x, schedule, t_from, t_to):
    """Where the probability flow carries x: it keeps the number of standard deviations from the mean."""

    def moments(t):
        alpha_bar = samplers.alpha_bar_at(schedule, t)
        return alpha_bar**0.5 * MEAN, (alpha_bar * SPREAD**2 + 1 - alpha_bar) ** 0.5

    (mean_from, std_from), (mean_to, std_to) = moments(t_from), moments(t_to)
    return mean_to + std_to * (x - mean_from) / std_from


def slope(steps, errors):
    """The order of convergence: how the logarithm of the error falls with that of the number of steps."""
    x, y = torch.tensor(steps).double().log(), torch.tensor(errors).double().log()
    return -float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())


def error_at(sampler, steps, t_end, schedule, **options):
    """Largest distance from the exact flow when the walk reaches step t_end."""
    xT = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(-1, 1)
    states = list(sampler(gaussian_eps(schedule), xT, schedule, steps=steps, clip=False, spacing="trailing", **options))
    times = [state.t for state in states[1:]] + [-1]
    state = states[times.index(t_end)]
    return float((state.xt - exact_flow(xT, schedule, schedule.num_steps - 1, t_end)).abs().max())


@pytest.mark.parametrize(("sampler", "order"), [("ddim", 1), ("dpmpp_2m", 2)])
def test_order_of_convergence(sampler, order):
    schedule, steps = make_schedule("linear"), [20, 40, 100, 200]
    errors = [error_at(SAMPLERS[sampler], s, 199, schedule) for s in steps]
    assert abs(slope(steps, errors) - order) < 0.25, (errors, slope(steps, errors))


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m"])
def test_walks_end_at_the_exact_solution(sampler):
    schedule = make_schedule("linear")
    errors = [error_at(SAMPLERS[sampler], s, -1, schedule) for s in (10, 50, 500)]
    assert errors[0] > 3 * errors[1] > 9 * errors[2] and errors[2] < 0.02


def mixture_x0(schedule, centres, spread):
    """The best possible guess of x0 when the data are a mixture of equal Gaussians at centres (K, 2)."""

    def answer(xt, t):
        signal, sigma = schedule.at(t, xt)
        variance = (signal * spread) ** 2 + sigma**2  # (B, 1)
        distance = ((xt[:, None] - signal[:, None] * centres[None]) ** 2).sum(-1)  # (B, K)
        near = torch.softmax(-distance / (2 * variance), dim=1) @ centres
        return near + signal * spread**2 / variance * (xt - signal * near)

    return answer


def test_ddpm_draws_a_mixture():
    """With the exact guess, ancestral sampling ends with the right shares and spreads."""
    schedule, centres = make_schedule("linear"), torch.tensor([[-0.6, 0.0], [0.6, 0.3], [0.0, -0.7]]).double()
    xT = noise(1, (3000, 2)).double()
    x = samplers.sample(
        samplers.ddpm,
        mixture_x0(schedule, centres, 0.1),
        xT,
        schedule,
        steps=250,
        prediction="x0",
        clip=False,
        generator=torch.Generator().manual_seed(2),
    )
    which = torch.cdist(x, centres).argmin(1)
    assert (which.bincount(minlength=3) / 3000 - 1 / 3).abs().max() < 0.03
    assert abs(float((x - centres[which]).std()) - 0.1) < 0.015  # 250 steps leave it a little too small


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m"])
def test_one_trajectory_whatever_is_predicted(sampler):
    schedule, centres = make_schedule("cosine"), noise(0, (7, 2)).double()
    x0_of = mixture_x0(schedule, centres, 0.2)

    def answering(prediction):
        def answer(xt, t):
            x0, (signal, sigma) = x0_of(xt, t), schedule.at(t, xt)
            return objectives.target(prediction, x0, (xt - signal * x0) / sigma, t, schedule)

        return answer

    ends = [
        samplers.sample(
            SAMPLERS[sampler], answering(p), noise(1, (5, 2)).double(), schedule, steps=20, prediction=p, clip=False
        )
        for p in KINDS
    ]
    assert torch.allclose(ends[0], ends[1], atol=1e-8) and torch.allclose(ends[0], ends[2], atol=1e-8)


def test_inversion_finds_the_noise_again():
    """On a smooth data set the noise comes back, and the error falls with the number of steps."""
    schedule, xT = make_schedule("linear"), noise(3, (20, 2)).double()
    eps, errors = gaussian_eps(schedule), []
    for steps in (20, 100, 500):
        x0 = exact_flow(xT, schedule, 999, 0)
        found = list(invert(eps, x0, schedule, steps))[-1].xt
        errors.append(float((found - xT).abs().max()))
    assert errors[0] > 3 * errors[1] > 9 * errors[2] and errors[2] < 0.02


def test_inversion_from_a_later_start_skips_the_first_steps():
    schedule, net = make_schedule("linear"), TinyNet(0)
    ts = [state.t for state in invert(net, noise(), schedule, steps=10, start=150)]
    assert ts == [199, 299, 399, 499, 599, 699, 799, 899, 999]
    assert [s.t for s in invert(net, noise(), schedule, steps=4, spacing="leading")] == [0, 250, 500, 750]
    with pytest.raises(ValueError, match="no step is left"):
        next(invert(net, noise(), schedule, steps=10, start=999))


# ------------------------------------------------------------------ slerp
def test_slerp_keeps_length_and_turns_evenly():
    a, b = noise(1).double(), noise(2).double()
    a, b = (x / x.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1) for x in (a, b))
    whole = torch.acos((a * b).flatten(1).sum(1))
    for share in (0.0, 0.25, 0.5, 1.0):
        x = slerp(a, b, share)
        assert torch.allclose(x.flatten(1).norm(dim=1), torch.ones(2).double())
        assert torch.allclose(torch.acos((a * x).flatten(1).sum(1).clamp(-1, 1)), share * whole, atol=1e-6)
    assert torch.allclose(slerp(a, b, 0), a) and torch.allclose(slerp(a, b, 1), b)


def test_slerp_takes_a_share_per_item_and_any_shape():
    a, b = noise(1, (3, 5)), noise(2, (3, 5))
    mixed = slerp(a, b, torch.tensor([0.0, 0.5, 1.0]))
    assert torch.allclose(mixed[0], a[0], atol=1e-6) and torch.allclose(mixed[2], b[2], atol=1e-6)
    assert torch.allclose(mixed[1], slerp(a, b, 0.5)[1])
    assert slerp(a, b, 0.3).dtype == a.dtype and slerp(noise(1), noise(2), 0.3).shape == (2, 3, 8, 8)


def test_slerp_of_parallel_items_is_a_straight_line():
    a = noise(1, (2, 4))
    assert torch.allclose(slerp(a, 3 * a, 0.5), 2 * a, atol=1e-5)
    assert torch.isfinite(slerp(a, -a, 0.5)).all()


# ------------------------------------------------------------------ edges
def test_zero_terminal_snr_walks_without_nan():
    schedule = make_schedule("linear", zero_snr=True)
    x = samplers.sample(samplers.dpmpp_2m, TinyNet(0), noise(), schedule, steps=10, prediction="v")
    assert torch.isfinite(x).all()
    assert math.isinf(float(schedule.log_snr[-1]))


@pytest.mark.parametrize("spacing", samplers.SPACINGS)
@pytest.mark.parametrize("steps", [1, 2, 1000])
def test_any_number_of_steps(steps, spacing):
    table = samplers.solver_timesteps(steps, spacing=spacing)
    assert len(table) == steps and (table.diff() < 0).all() and table.max() <= 999 and table.min() >= 0


@pytest.mark.parametrize("sampler", [samplers.dpmpp_2m, invert])
def test_bad_input(sampler):
    with pytest.raises(ValueError, match="steps must be a whole number from 1 to 1000"):
        next(sampler(TinyNet(0), noise(), make_schedule("linear"), steps=0))
    with pytest.raises(ValueError, match="leading, trailing, linspace"):
        next(sampler(TinyNet(0), noise(), make_schedule("linear"), spacing="log"))
