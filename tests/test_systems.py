"""A system of several stages: a prior before a decoder and a cascade, with tiny random networks in every place."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from course_utils.errors import InputError
from course_utils.generator.conditions import concat_condition
from course_utils.generator.samplers import ddim, dpmpp_2m
from course_utils.generator.schedules import make_schedule
from course_utils.generator.unet import UNet
from course_utils.systems.stage import Stage, System

SCHEDULE = make_schedule("cosine")
CPU = torch.device("cpu")


def randomize(network, seed):
    """Random weights, so large that every input shows in the output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
    return network.eval()


def tiny_unet(seed, **options):
    unet = UNet(channels=(8, 16), num_res_blocks=1, attention=(False, True), groups=4, **{"in_channels": 3, **options})
    return randomize(unet, seed)


def word_vectors(prompts):
    """A text encoder of one token: (B, 1, 8), of the letters alone."""
    rows = [torch.tensor([ord(letter) / 100 for letter in (text + " " * 8)[:8]]) for text in prompts]
    return torch.stack(rows)[:, None]


def walk(model, xT, steps):
    return dpmpp_2m(model, xT, SCHEDULE, steps, "x0")


def prior_and_decoder(prior_steps=3, text_steps=None):
    """As in DALL·E 2: text -> a vector of a picture, by diffusion; that vector -> a picture, by a U-Net."""
    prior = randomize(torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 8)), 1)
    decoder = tiny_unet(2, added_dim=8)

    def prior_model(prompts, guidance, negative, before):
        assert before is None
        text = guidance * word_vectors(prompts)[:, 0]
        return lambda xt, t: prior(torch.cat([xt, text], dim=1))  # (B, 8)

    def decoder_model(prompts, guidance, negative, before):
        assert before.shape == (len(prompts), 8) and torch.allclose(before.norm(dim=1), torch.ones(len(prompts)))
        return lambda xt, t: decoder(xt, t, added=before)

    return System(
        (
            Stage("prior", (8,), prior_model, walk, lambda z: F.normalize(z, dim=1), steps=prior_steps),
            Stage("decoder", (3, 8, 8), decoder_model, walk, lambda x: x.clamp(-1, 1), steps=text_steps),
        ),
        CPU,
        steps=4,
        guidance=1.0,
    )


def cascade(base_steps=None):
    """As in Imagen: text -> a small picture; that, enlarged, beside the noise -> a larger one."""
    base, larger = tiny_unet(3, context_dim=8), tiny_unet(4, in_channels=6)

    def base_model(prompts, guidance, negative, before):
        context = word_vectors(prompts)
        return lambda xt, t: base(xt, t, context=context)

    def larger_model(prompts, guidance, negative, before):
        assert before.shape == (len(prompts), 3, 8, 8)
        return concat_condition(larger, F.interpolate(before, scale_factor=2))

    def plain_walk(model, xT, steps):
        return ddim(model, xT, SCHEDULE, steps, "x0", spacing="trailing")

    return System(
        (
            Stage("8x8", (3, 8, 8), base_model, walk, steps=base_steps),
            Stage("16x16", (3, 16, 16), larger_model, plain_walk),
        ),
        CPU,
        steps=3,
        guidance=1.0,
    )


SYSTEMS = {"prior and decoder": (prior_and_decoder, 8, 3 + 4), "cascade": (cascade, 16, 3 + 3)}
PROMPTS = ["cat", "dog", "owl"]


@pytest.mark.parametrize(("make", "side", "total"), SYSTEMS.values(), ids=SYSTEMS)
def test_states_of_all_stages_come_in_order_and_pictures_last(make, side, total):
    system = make()
    *states, last = system.generate(PROMPTS, seed=1)
    assert [state.step for state in states] == list(range(1, total + 1)) and last.step == total
    assert {state.total for state in [*states, last]} == {total}
    names = [stage.name for stage in system.stages]
    assert sorted({state.stage for state in states}, key=names.index) == names
    for state in states:
        assert state.xt.shape == state.x0.shape == (3, *system.stages[names.index(state.stage)].shape)
    assert last.xt.shape == (3, 3, side, side) and last.stage == names[-1]
    assert torch.equal(last.xt, states[-1].xt.clamp(-1, 1)) and last.xt.std() > 0.05


@pytest.mark.parametrize(("make", "side", "total"), SYSTEMS.values(), ids=SYSTEMS)
def test_prompt_and_seed_decide_and_nothing_else(make, side, total):
    def last(prompts, **options):
        *_, state = make().generate(prompts, **options)
        return state.xt

    three = last(PROMPTS, seed=1)
    assert torch.equal(three, last(PROMPTS, seed=1))
    assert (three - last(PROMPTS, seed=2)).abs().mean() > 1e-3
    assert (three - last(PROMPTS[::-1], seed=1)).abs().mean() > 1e-4  # rounding is a hundred times less
    assert torch.allclose(three[2:], last(PROMPTS[2:], seed=1, first=2), atol=1e-4)  # alone, with the same noise


@pytest.mark.parametrize("make", [prior_and_decoder, cascade])
def test_noise_of_a_later_stage_does_not_depend_on_the_steps_of_the_first(make):
    """What the second stage begins with is the seed's, whether the first took two steps or nine."""
    starts = []

    def remember(sampler):
        def remembering(model, xT, steps):
            starts.append(xT)
            return sampler(model, xT, steps)

        return remembering

    for first_steps in (2, 9):
        system = make(first_steps)
        stages = tuple(replace(stage, sampler=remember(stage.sampler)) for stage in system.stages)
        list(replace(system, stages=stages).generate(["cat"], seed=5))
    first, second, first_again, second_again = starts
    assert torch.equal(first, first_again) and torch.equal(second, second_again)
    count = min(first.numel(), second.numel())
    assert not torch.equal(first.flatten()[:count], second.flatten()[:count])  # no stage repeats another's noise


def test_drawing_reports_every_step_of_every_batch():
    seen = []
    pictures = cascade().draw(["cat"] * 18, steps=2, progress=lambda done, total: seen.append((done, total)))
    assert pictures.shape == (18, 16, 16, 3) and pictures.dtype == np.uint8
    done = [d for d, _ in seen]
    assert {total for _, total in seen} == {8}  # two batches of two stages of two steps
    assert done == sorted(done) and done[0] == 1 and done[-1] == 8 and set(done) == set(range(1, 9))


@pytest.mark.parametrize("make", [prior_and_decoder, cascade])
def test_a_batch_cut_in_two_draws_what_one_would(make):
    system = make()
    *_, whole = system.generate(PROMPTS * 6, seed=3)
    many = system.draw(PROMPTS * 6, seed=3)
    assert np.abs(many.astype(int) - ((whole.xt.clamp(-1, 1) + 1) * 127.5).permute(0, 2, 3, 1).numpy()).max() <= 1


def test_guidance_and_steps_reach_every_stage_that_has_none_of_its_own():
    system = prior_and_decoder()
    assert next(system.generate("cat", steps=6)).total == 3 + 6
    a, b = ([*system.generate("cat", guidance=guidance)][2].xt for guidance in (1.0, 3.0))
    assert not torch.allclose(a, b)


@pytest.mark.parametrize(
    "options",
    [{"seed": -1}, {"seed": 1.5}, {"steps": 0}, {"steps": 1001}, {"guidance": 21}, {"guidance": float("nan")}],
)
def test_what_is_out_of_range_gets_one_sentence(options):
    name, value = next(iter(options.items()))
    for call in (lambda: list(cascade().generate("cat", **options)), lambda: cascade().draw("cat", **options)):
        with pytest.raises(InputError, match=rf"{name} must be a (whole )?number from .* not {value!r}"):
            call()
