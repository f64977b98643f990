"""DreamBooth's loss equals the field's, with its gradients, and its batches hold what they should."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_utils.finetune.dreambooth import Examples, draw_pairs, dreambooth_loss
from course_utils.generator.objectives import diffusion_loss, target
from course_utils.generator.schedules import add_noise, make_schedule

SCHEDULE = make_schedule("cosine")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def examples(count, seed, fill=None):
    """Random examples; fill: a number that every latent holds."""
    z, context = torch.randn(count, 4, 6, 6, generator=seeded(seed)), torch.randn(count, 3, 5, generator=seeded(-seed))
    return Examples(z if fill is None else torch.full_like(z, fill), context)


class Tiny(nn.Module):
    """A network that hears the step and the context."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.proj = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(5, 4)

    def forward(self, zt, t, context):
        return self.conv(zt) + (self.proj(context.mean(dim=1)) * (t[:, None] / 1000))[..., None, None]


def chunked(network, pairs, prediction, generator, prior_weight, timestep_power):
    """The loss as diffusers' DreamBooth example computes it: one pass, cut in two, two mean squared errors."""
    u = torch.rand(len(pairs), generator=generator, dtype=torch.float64)
    t = (SCHEDULE.num_steps * u**timestep_power).long()
    eps = torch.randn(pairs.z.shape, generator=generator)
    pred = network(add_noise(pairs.z, eps, t, SCHEDULE), t, context=pairs.context)
    pred, pred_prior = torch.chunk(pred, 2, dim=0)
    goal, goal_prior = torch.chunk(target(prediction, pairs.z, eps, t, SCHEDULE), 2, dim=0)
    prior_loss = F.mse_loss(pred_prior.float(), goal_prior.float(), reduction="mean")
    return F.mse_loss(pred.float(), goal.float(), reduction="mean") + prior_weight * prior_loss


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
@pytest.mark.parametrize("prior_weight", [0.0, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("timestep_power", [1.0, 0.6])
def test_loss_and_gradients_equal_the_example_scripts(prediction, prior_weight, timestep_power):
    pairs = draw_pairs(examples(5, 1), examples(7, 2), 4, seeded(3))
    network = Tiny()
    ours = dreambooth_loss(network, pairs, SCHEDULE, prediction, seeded(9), prior_weight, timestep_power)
    gradients = torch.autograd.grad(ours, list(network.parameters()))
    theirs = chunked(network, pairs, prediction, seeded(9), prior_weight, timestep_power)
    peers = torch.autograd.grad(theirs, list(network.parameters()))
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-7) for a, b in zip(gradients, peers, strict=True))


def test_equal_weights_are_twice_the_plain_loss():
    pairs = draw_pairs(examples(5, 1), examples(7, 2), 4, seeded(3))
    ours = dreambooth_loss(Tiny(), pairs, SCHEDULE, "v", seeded(9))
    u = torch.rand(8, generator=(generator := seeded(9)), dtype=torch.float64)
    plain = diffusion_loss(Tiny(), pairs.z, SCHEDULE, "v", generator, t=(1000 * u).long(), context=pairs.context)
    assert ours.item() == pytest.approx(2 * plain.item(), rel=1e-6)


def test_a_pair_holds_the_subject_first_and_each_latent_keeps_its_context():
    instance, prior = examples(5, 1), examples(7, 2)
    pairs = draw_pairs(instance, prior, 6, seeded())
    assert pairs.z.shape == (12, 4, 6, 6) and pairs.context.shape == (12, 3, 5)
    for half, source in ((slice(0, 6), instance), (slice(6, 12), prior)):
        for z, context in zip(pairs.z[half], pairs.context[half], strict=True):
            (row,) = [i for i in range(len(source)) if torch.equal(source.z[i], z)]
            assert torch.equal(source.context[row], context)
    again = draw_pairs(instance, prior, 6, seeded())
    assert torch.equal(pairs.z, again.z) and not torch.equal(pairs.z, draw_pairs(instance, prior, 6, seeded(1)).z)


def test_without_a_weight_the_class_moves_nothing():
    """With prior_weight 0 another class half gives the same loss and the same gradients."""
    losses, moves = [], []
    for fill in (0.0, 5.0):
        pairs, network = draw_pairs(examples(5, 1), examples(7, 2, fill), 4, seeded(3)), Tiny()
        losses.append(dreambooth_loss(network, pairs, SCHEDULE, "v", seeded(9), prior_weight=0.0))
        moves.append(torch.autograd.grad(losses[-1], network.conv.weight)[0])
    assert losses[0].item() == pytest.approx(losses[1].item()) and torch.allclose(*moves)


def test_noisy_steps_come_more_often_where_asked():
    seen = []

    def network(zt, t, context):
        seen.append(t)
        return zt

    pairs = draw_pairs(examples(5, 1), examples(7, 2), 2000, seeded(3))
    for timestep_power in (1.0, 0.6):
        dreambooth_loss(network, pairs, SCHEDULE, "v", seeded(9), timestep_power=timestep_power)
    even, late = (t.double().mean().item() for t in seen)
    assert even == pytest.approx(500, abs=20) and late == pytest.approx(1000 / 1.6, abs=20)  # T / (1 + timestep_power)
    assert seen[1].min() >= 0 and seen[1].max() < 1000


def test_wrong_input_is_told():
    with pytest.raises(ValueError, match="there are 3 and 2"):
        Examples(torch.zeros(3, 4, 2, 2), torch.zeros(2, 3, 5))
    with pytest.raises(ValueError, match="there are 0 and 0"):
        Examples(torch.zeros(0, 4, 2, 2), torch.zeros(0, 3, 5))
    with pytest.raises(ValueError, match="two halves .* not 3 examples"):
        dreambooth_loss(Tiny(), examples(3, 1), SCHEDULE)
    for weight in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="at least 0"):
            dreambooth_loss(Tiny(), examples(4, 1), SCHEDULE, prior_weight=weight)
