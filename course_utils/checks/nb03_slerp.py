"""The exercise on the way between two noises, along the shell on which noises lie."""

from __future__ import annotations

import torch

from course_utils.checks.core import Exercise


def arc(a, b, u, power=1.0):
    """Spherical interpolation of rows; power = 0 forgets the division by the sine."""
    cosine = (a * b).sum(1, keepdim=True) / (a.norm(dim=1, keepdim=True) * b.norm(dim=1, keepdim=True))
    angle = torch.acos(cosine)
    return (torch.sin((1 - u) * angle) * a + torch.sin(u * angle) * b) / torch.sin(angle) ** power


def _one_angle(a, b, u):
    angle = torch.acos((a * b).sum() / (a.norm() * b.norm()))
    return (torch.sin((1 - u) * angle) * a + torch.sin(u * angle) * b) / torch.sin(angle)


SLERP = Exercise(
    reference=arc,
    tolerance=1e-3,
    cases=lambda g, i: (*torch.randn(2, 3, 6 + i, generator=g), (0.3, 0.1, 0.5, 0.8, 0.65)[i]),
    mistakes=(
        (
            "this is the straight line: it cuts through the ball, and the noise gets too quiet.",
            lambda a, b, u: (1 - u) * a + u * b,
        ),
        ("a and b are exchanged: u = 0 is a, u = 1 is b.", lambda a, b, u: arc(b, a, u)),
        ("the division by sin(angle) is missing.", lambda a, b, u: arc(a, b, u, power=0.0)),
        ("the whole batch gets one angle: each row has its own; sum over dim=1 with keepdim=True.", _one_angle),
        (
            "this is the straight line, stretched to a's length: the angle does not grow evenly then.",
            lambda a, b, u: torch.nn.functional.normalize((1 - u) * a + u * b) * a.norm(dim=1, keepdim=True),
        ),
        (
            "the result is cut to length 1: noises keep their own length.",
            lambda a, b, u: torch.nn.functional.normalize(arc(a, b, u)),
        ),
    ),
    hints=(
        "The angle between a and b comes from their inner product; the two factors are sines of parts of it.",
        "cosine = (a * b).sum(1, keepdim=True) / (a.norm(dim=1, keepdim=True) * b.norm(dim=1, keepdim=True)).",
        "angle = torch.acos(cosine); (torch.sin((1 - u) * angle) * a + torch.sin(u * angle) * b) / torch.sin(angle).",
    ),
)
