"""Schedules, objectives and samplers equal diffusers' schedulers step by step, and exact oracles hold."""

import math

import pytest
import torch

from course_utils.generator import objectives, samplers
from course_utils.generator.schedules import Schedule, add_noise, make_schedule, zero_terminal_snr

NAMES = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
RANGES = {"linear": (1e-4, 0.02), "scaled_linear": (0.00085, 0.012), "cosine": (1e-4, 0.02)}
KINDS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}


def peer(kind, name="linear", **options):
    import diffusers

    start, end = RANGES[name]
    return getattr(diffusers, kind)(beta_schedule=NAMES[name], beta_start=start, beta_end=end, **options)


def exact_peer(kind, name="linear", **options):
    """The same with coefficients in float64 as ours are, so that rounding hides no difference of formula."""
    scheduler = peer(kind, name, **options)
    scheduler.alphas_cumprod = make_schedule(name).alpha_bar.clone()
    return scheduler


def model(xt, t):
    """A cheap, fixed, nonlinear stand-in for a network: samplers only ever see a callable."""
    return torch.sin(xt.flip(-1)) * 0.7 + 0.1 * xt + (t / 1000).reshape(-1, 1, 1, 1).to(xt)


def noise(seed=0, shape=(2, 3, 8, 8)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("zero_snr", [False, True])
def test_schedules(name, zero_snr):
    theirs = peer("DDIMScheduler", name, rescale_betas_zero_snr=zero_snr)
    ours = make_schedule(name, zero_snr=zero_snr)
    assert ours.alpha_bar.dtype == torch.float64
    assert torch.allclose(ours.alpha_bar, theirs.alphas_cumprod.double(), atol=2e-6)


def test_published_terminal_values():
    ends = {name: float(make_schedule(name).alpha_bar[-1]) for name in NAMES}
    assert math.isclose(ends["linear"], 4.04e-5, rel_tol=0.01)
    assert math.isclose(ends["scaled_linear"], 4.66e-3, rel_tol=0.01)
    assert math.isclose(ends["cosine"], 2.4e-9, rel_tol=0.02)
    for name in ("linear", "scaled_linear"):
        repaired = make_schedule(name, zero_snr=True)
        assert repaired.alpha_bar[-1] == 0 and repaired.log_snr[-1] == -math.inf
        assert torch.isclose(repaired.alpha_bar[0], make_schedule(name).alpha_bar[0])


def test_closed_form_equals_the_loop():
    """Means and variances of the step-by-step process, carried exactly, meet the closed form."""
    schedule, mean, variance = make_schedule("linear"), 1.0, 0.0
    for t in range(schedule.num_steps):
        beta = float(schedule.beta[t])
        alpha = 1 - beta
        mean, variance = alpha**0.5 * mean, alpha * variance + beta
        assert math.isclose(mean, float(schedule.alpha_bar[t]) ** 0.5, rel_tol=1e-9)
        assert math.isclose(variance, 1 - float(schedule.alpha_bar[t]), rel_tol=1e-9)


def test_add_noise_and_velocity():
    theirs, ours = exact_peer("DDPMScheduler"), make_schedule("linear")
    x0, eps, t = noise(1), noise(2), torch.tensor([0, 700])
    assert torch.allclose(add_noise(x0, eps, t, ours), theirs.add_noise(x0, eps, t), atol=1e-5)
    assert torch.allclose(objectives.velocity(x0, eps, t, ours), theirs.get_velocity(x0, eps, t), atol=1e-5)


@pytest.mark.parametrize("prediction", KINDS)
def test_predictions_convert(prediction):
    schedule, x0, eps, t = make_schedule("cosine"), noise(1), noise(2), torch.tensor([100, 600])
    xt = add_noise(x0, eps, t, schedule)
    answer = objectives.target(prediction, x0, eps, t, schedule)
    assert torch.allclose(objectives.to_x0(answer, xt, t, schedule, prediction), x0, atol=1e-5)
    assert torch.allclose(objectives.to_eps(answer, xt, t, schedule, prediction), eps, atol=1e-5)


@pytest.mark.parametrize("prediction", KINDS)
def test_min_snr_weights(prediction):
    from diffusers.training_utils import compute_snr

    t = torch.tensor([0, 10, 300, 900])
    snr = compute_snr(exact_peer("DDPMScheduler"), t)
    divisor = {"eps": snr, "x0": torch.ones_like(snr), "v": snr + 1}[prediction]
    ours = objectives.min_snr_weight(t, make_schedule("linear"), prediction)
    assert torch.allclose(ours, snr.clamp(max=5.0) / divisor, rtol=1e-4)


def test_loss_equals_its_formula():
    schedule, x0 = make_schedule("linear"), noise(3)
    ours = objectives.diffusion_loss(model, x0, schedule, generator=torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    t = torch.randint(1000, (2,), generator=generator)
    eps = torch.randn(x0.shape, generator=generator)
    xt = peer("DDPMScheduler").add_noise(x0, eps, t)
    assert torch.allclose(ours, ((model(xt, t) - eps) ** 2).mean(), atol=1e-6)


def run_peer(scheduler, xT, seed, **options):
    """Walk diffusers' scheduler with our model and return all its states."""
    generator, xt, states = torch.Generator().manual_seed(seed), xT, []
    for t in scheduler.timesteps:
        answer = model(xt, t.repeat(len(xt)))
        xt = scheduler.step(answer, t, xt, generator=generator, **options).prev_sample
        states.append(xt)
    return states


def assert_same_walk(ours, theirs):
    for state, xt in zip(ours, theirs, strict=True):
        assert (state.xt - xt).abs().max() < 1e-5 * max(1.0, float(xt.abs().max())), state.t


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("steps", [1000, 50])
@pytest.mark.parametrize("prediction", KINDS)
def test_ddpm(variance, steps, prediction):
    theirs = exact_peer("DDPMScheduler", variance_type=variance, prediction_type=KINDS[prediction])
    theirs.set_timesteps(steps)
    schedule, generator = make_schedule("linear"), torch.Generator().manual_seed(7)
    ours = samplers.ddpm(model, noise(4), schedule, steps, prediction, generator, variance=variance)
    assert_same_walk(ours, run_peer(theirs, noise(4), 7))


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("prediction", KINDS)
@pytest.mark.parametrize("clip", [False, True])
def test_ddim(eta, prediction, clip):
    theirs = exact_peer("DDIMScheduler", "cosine", prediction_type=KINDS[prediction], clip_sample=clip)
    theirs.set_timesteps(50)
    schedule, generator = make_schedule("cosine"), torch.Generator().manual_seed(7)
    ours = samplers.ddim(model, noise(4), schedule, 50, prediction, generator, clip, eta=eta)
    assert_same_walk(ours, run_peer(theirs, noise(4), 7, eta=eta))


@pytest.mark.parametrize("spacing", samplers.SPACINGS)
@pytest.mark.parametrize("steps", [1, 7, 50, 1000])
def test_step_tables(spacing, steps):
    theirs = peer("DDIMScheduler", timestep_spacing=spacing)
    theirs.set_timesteps(steps)
    if spacing == "linspace" and steps == 1:  # one point of a line: theirs is the picture's end, ours the noise's
        assert samplers.timesteps(1, spacing=spacing).tolist() == [999]
        return
    assert samplers.timesteps(steps, spacing=spacing).tolist() == theirs.timesteps.tolist()


def test_one_trajectory_whatever_is_predicted():
    """eps, x0 and v carry the same knowledge: DDIM draws the same picture from each."""
    schedule = make_schedule("linear")

    def answering(prediction):
        def answer(xt, t):
            x0 = torch.tanh(xt.double())  # any opinion on the clean picture will do
            signal, sigma = schedule.at(t, xt.double())
            eps = (xt.double() - signal * x0) / sigma
            return objectives.target(prediction, x0, eps, t, schedule).to(xt)

        return answer

    pictures = [
        samplers.sample(samplers.ddim, answering(p), noise(4).double(), schedule, prediction=p, clip=False)
        for p in KINDS
    ]
    assert torch.allclose(pictures[0], pictures[1], atol=1e-9) and torch.allclose(pictures[0], pictures[2], atol=1e-9)


def test_ddim_with_all_the_noise_is_ddpm():
    schedule = make_schedule("linear")
    a = samplers.sample(
        samplers.ddim,
        model,
        noise(4),
        schedule,
        steps=100,
        eta=1.0,
        clip=False,
        generator=torch.Generator().manual_seed(1),
    )
    b = samplers.sample(
        samplers.ddpm, model, noise(4), schedule, steps=100, clip=False, generator=torch.Generator().manual_seed(1)
    )
    assert (a - b).abs().max() < 1e-3 * b.abs().max()


# ------------------------------------------------------------------ exact oracles
MEANS, SPREAD, WEIGHTS = torch.tensor([-0.6, 0.5]).double(), 0.1, torch.tensor([0.3, 0.7]).double()


def mixture_eps(schedule):
    """The exact noise predictor of a mixture of two Gaussians: eps = -sqrt(1 - alpha_bar) * score."""

    def answer(xt, t):
        signal, sigma = schedule.at(t, xt)
        variance = (signal * SPREAD) ** 2 + sigma**2
        x = xt[..., None]
        centres = signal[..., None] * MEANS
        log_p = torch.log(WEIGHTS) - (x - centres) ** 2 / (2 * variance[..., None])
        return sigma * (torch.softmax(log_p, -1) * (x - centres)).sum(-1) / variance

    return answer


@pytest.mark.parametrize(("sampler", "options"), [("ddpm", {}), ("ddim", {"steps": 500})])
def test_exact_score_draws_the_mixture(sampler, options):
    """With the exact score the samplers draw the right share, mean and spread of each Gaussian."""
    schedule = make_schedule("linear")
    xT = torch.randn(4000, 1, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = samplers.sample(
        getattr(samplers, sampler),
        mixture_eps(schedule),
        xT,
        schedule,
        clip=False,
        generator=torch.Generator().manual_seed(1),
        **options,
    ).flatten()
    right = x > 0
    assert abs(float(right.double().mean()) - 0.7) < 0.03
    assert abs(float(x[right].mean()) - 0.5) < 0.01 and abs(float(x[~right].mean()) + 0.6) < 0.01
    assert abs(float(x[right].std()) - SPREAD) < 0.01


def test_ideal_denoiser_ends_on_the_data():
    """The best predictor of a finite set can only draw members of the set."""
    schedule = make_schedule("cosine")
    data = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).clamp(-1, 1)

    def ideal_x0(xt, t):
        signal, sigma = schedule.at(t, xt)
        distance = ((xt[:, None] - signal[:, None] * data[None]) ** 2).sum((2, 3, 4))  # (B, 6)
        weight = torch.softmax(-distance / (2 * sigma.flatten()[:, None] ** 2), dim=1)
        return torch.einsum("bn,nchw->bchw", weight, data)

    x = samplers.sample(samplers.ddim, ideal_x0, noise(5, (20, 1, 4, 4)).double(), schedule, prediction="x0")
    nearest = ((x[:, None] - data[None]) ** 2).sum((2, 3, 4)).min(1)
    assert nearest.values.max() < 1e-3 and len(set(nearest.indices.tolist())) > 1


# ------------------------------------------------------------------ bad input
@pytest.mark.parametrize("steps", [0, -1, 1001, 2.5, "ten", True])
def test_steps_out_of_range(steps):
    with pytest.raises(ValueError, match="steps must be a whole number from 1 to 1000"):
        samplers.timesteps(steps)


def test_unknown_names_are_answered_with_the_choices():
    schedule = make_schedule("linear")
    with pytest.raises(ValueError, match="linear, cosine, scaled_linear"):
        make_schedule("quadratic")
    with pytest.raises(ValueError, match="from 25"):
        make_schedule("linear", num_steps=24)
    with pytest.raises(ValueError, match="eps, x0, v"):
        objectives.target("score", noise(), noise(), torch.tensor([1, 2]), schedule)
    with pytest.raises(ValueError, match="leading, trailing, linspace"):
        samplers.timesteps(10, spacing="log")
    with pytest.raises(ValueError, match="eta must be a number from 0 to 1"):
        next(samplers.ddim(model, noise(), schedule, eta=2))
    with pytest.raises(ValueError, match="fixed_small, fixed_large"):
        next(samplers.ddpm(model, noise(), schedule, variance="learned"))


def test_zero_snr_needs_no_special_case():
    """beta = 1 at the last step is what algorithm 1 ends on."""
    beta = zero_terminal_snr(make_schedule("linear").beta)
    assert beta[-1] == 1 and Schedule.from_beta(beta).alpha_bar[-1] == 0
