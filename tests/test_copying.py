"""The nearest training picture is found by a plain loop too, and copies lie under the yardstick of real ones."""

import pytest
import torch

from course_utils.errors import InputError
from course_utils.evaluation.copying import copy_threshold, nearest


def pictures(n, seed, size=8):
    """Random pictures (n, 3, size, size) in [-1, 1]."""
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_the_nearest_is_that_of_a_plain_loop():
    x, references = pictures(7, 0), pictures(30, 1)
    far = torch.tensor([[(a - b).square().mean().sqrt() for b in references] for a in x])  # (7, 30)
    found = nearest(x, references)
    assert torch.equal(found.index, far.argmin(dim=1))
    assert torch.allclose(found.distance, far.min(dim=1).values, atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 7, 30, 1000])
def test_the_size_of_a_chunk_changes_nothing(chunk):
    x, references = pictures(9, 0), pictures(30, 1)
    whole, parts = nearest(x, references), nearest(x, references, chunk)
    assert torch.equal(whole.index, parts.index) and torch.allclose(whole.distance, parts.distance)


def test_a_copy_is_found_at_distance_zero_and_the_first_of_two_counts():
    references = pictures(20, 1)
    references[15] = references[4]
    found = nearest(references[[4, 9]].clone(), references, chunk=8)
    assert found.index.tolist() == [4, 9] and found.distance.tolist() == [0, 0]
    assert found.index.dtype == torch.long and found.distance.dtype == torch.float32


def test_a_distance_is_the_root_mean_square_difference_of_a_value():
    x = torch.zeros(1, 3, 4, 4)
    assert nearest(x, torch.stack([x[0] + 0.5, x[0] - 0.25])).distance.item() == pytest.approx(0.25)


def test_features_compare_as_pictures_do():
    features = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    found = nearest(torch.tensor([[3.0, 3.0]]), features)
    assert found.index.item() == 1 and found.distance.item() == pytest.approx((1 / 2) ** 0.5)


def test_no_gradient_is_kept():
    x = pictures(2, 0).requires_grad_(True)
    assert not nearest(x, pictures(3, 1)).distance.requires_grad


# ------------------------------------------------------------------ the yardstick
def test_the_threshold_is_what_the_share_of_real_pictures_come_nearer_than():
    real, references = pictures(200, 0), pictures(50, 1)
    distance = nearest(real, references).distance
    for share in (0.05, 0.5):
        below = (distance < copy_threshold(real, references, share)).float().mean()
        assert below.item() == pytest.approx(share, abs=0.006)
    assert copy_threshold(real, references, 0) == pytest.approx(distance.min().item())


def test_copies_lie_under_the_threshold_and_new_pictures_mostly_do_not():
    references = pictures(50, 1)
    threshold = copy_threshold(pictures(200, 0), references)
    copies = references[:20] + 0.05 * pictures(20, 2)
    assert (nearest(copies, references).distance < threshold).all()
    assert (nearest(pictures(200, 3), references).distance < threshold).float().mean() < 0.15


@pytest.mark.parametrize("function", [nearest, copy_threshold])
@pytest.mark.parametrize(
    ("x", "references"),
    [
        (pictures(2, 0), pictures(3, 1, size=16)),
        (pictures(2, 0), pictures(0, 1)),
        (pictures(0, 0), pictures(3, 1)),
        (torch.zeros(5), torch.zeros(5)),
    ],
    ids=["another size", "no references", "no pictures", "no batch"],
)
def test_what_cannot_be_compared_is_refused(function, x, references):
    with pytest.raises(InputError, match="of one size"):
        function(x, references)


@pytest.mark.parametrize("share", [-0.1, 1.1, "few", True])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(InputError, match="share must be a number from 0 to 1"):
        copy_threshold(pictures(2, 0), pictures(3, 1), share)
