"""The trainings that notebook 02 compares differ in their question alone; the input may be added to the answer."""

import pytest
import torch

from course_utils.generator.objectives import diffusion_loss
from course_utils.generator.unet import Patched
from course_utils.recipes import noise_predictor
from course_utils.recipes.catalog import find
from course_utils.systems.unconditional import SCHEDULE

NAMES = ("eps", "eps-plain", "x0", "v")


def first_weights(name):
    torch.manual_seed(0)
    return find(f"noise-predictor-{name}").model().state_dict()


def test_residual_adds_the_input_and_no_weight():
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    half = [Patched(lambda x, t: 0.5 * x, residual=residual)(x, None) for residual in (False, True)]
    assert torch.equal(half[0], 0.5 * x) and torch.equal(half[1], 1.5 * x)
    assert find("noise-predictor-eps").model().residual and not find("noise-predictor-eps-plain").model().residual


@pytest.mark.parametrize("name", NAMES[1:])
def test_equal_trainings_begin_alike(name):
    ours, theirs = first_weights("eps"), first_weights(name)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    one, other = find("noise-predictor-eps"), find(f"noise-predictor-{name}")
    assert (one.batch, one.batch_size, one.lr, one.decay) == (other.batch, other.batch_size, other.lr, other.decay)


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_asks_what_the_name_says(name):
    x0 = noise_predictor.load_pictures()[:4]

    def network(xt, t):
        return 0.3 * xt

    loss = find(f"noise-predictor-{name}").loss(network, {"x0": x0}, torch.Generator().manual_seed(1))
    kind = name.removesuffix("-plain")
    assert loss == diffusion_loss(network, x0, SCHEDULE, kind, torch.Generator().manual_seed(1))
