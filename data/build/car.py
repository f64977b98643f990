"""XP7, a car of our own design, as a small 3-D model: turned, projected, shaded in a few tones, written as SVG.

x runs from tail to nose, y from one flank to the other, z up from the ground, in metres. A part is a pair of a flat
shape (n, 3) and a colour; what covers comes after what it covers, and what is turned away is left out. Areas are large
and details few: a small model, and the autoencoder before it, must be able to keep them at 64 x 64 pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

SIDE = 256  # of the drawing, in its own units
BORDER = 2.5  # width of the outline, in the same units: less than a pixel of a small picture
DISTANCE = 15.0  # from the eye to the car: a little perspective
LIGHT = np.array([0.25, -0.55, 0.80]) / np.linalg.norm([0.25, -0.55, 0.80])  # from above and from behind the eye
BODY, LINE, GLASS, BADGE = (22, 160, 146), (255, 130, 26), (120, 190, 235), (255, 255, 255)
OUTLINE, TYRE, RIM = (10, 80, 78), (36, 42, 52), (228, 234, 240)
FRONT_LIGHT, REAR_LIGHT = (255, 249, 196), (255, 46, 66)
WHEELS, RADIUS, HALF = (-1.08, 1.10), 0.44, 0.90  # where the axles are; half the width of the car
NOSE, LAMP, TAIL_LAMP, BADGE_Z = 1.8, (0.54, 0.74), (0.62, 0.84), 0.78

# Heights over x, from tail to nose: of the belt (boot, door sills, bonnet), of the roof, of the lower edge.
BELT = np.array(
    [
        (-1.8, 1.06),
        (-1.7, 1.14),
        (-1.3, 1.13),
        (-0.5, 1.10),
        (0.3, 1.06),
        (0.8, 1.03),
        (1.3, 0.96),
        (1.62, 0.86),
        (1.74, 0.79),
        (1.8, 0.70),
    ]
)
ROOF = np.array(
    [
        (-1.66, 1.12),
        (-1.4, 1.30),
        (-1.0, 1.53),
        (-0.6, 1.67),
        (-0.2, 1.72),
        (0.1, 1.70),
        (0.34, 1.60),
        (0.62, 1.31),
        (0.90, 1.02),
    ]
)
SILL = np.array([(-1.8, 0.46), (-1.6, 0.36), (-1.4, 0.28), (1.4, 0.26), (1.66, 0.28), (1.8, 0.34)])


def height(curve: np.ndarray, x: ArrayLike) -> np.ndarray:
    """The height of a curve at x (n,), its corners rounded off by averaging over the neighbourhood."""
    near = np.asarray(x)[..., None] + np.linspace(-0.09, 0.09, 7)
    return np.interp(near, *curve.T).mean(-1)


def half_width(x: ArrayLike) -> np.ndarray:
    """Half the width of the body at x: seen from above, its corners are round."""
    return HALF - 0.36 * np.clip((np.abs(x) - 1.18) / 0.62, 0, 1) ** 2.6


def cabin_width(x: ArrayLike, z: ArrayLike) -> np.ndarray:
    """Half the width of the cabin at x and z: it leans inwards above the belt."""
    return 0.83 - 0.50 * (np.asarray(z) - height(BELT, x))


def points(*coordinates: ArrayLike) -> np.ndarray:
    """x, y and z, each a number or (n,), as (n, 3)."""
    return np.stack(np.broadcast_arrays(*coordinates), -1).astype(float)


def quads(grid: np.ndarray) -> np.ndarray:
    """The quads (q, 4, 3) between neighbours in a grid of points (rows, columns, 3), row by row."""
    corners = grid[:-1, :-1], grid[1:, :-1], grid[1:, 1:], grid[:-1, 1:]
    return np.stack(corners, 2).reshape(-1, 4, 3)


def shell(x: np.ndarray, section: list[tuple]) -> np.ndarray:
    """The grid of a surface that is the same left and right: lines (y, z) over x, from the lower edge to the top."""
    return np.stack([points(x, y, z) for y, z in section] + [points(x, -y, z) for y, z in section[::-1]], 1)


def body() -> list[tuple]:
    """All below the belt: five strips on either side, one over the top, a cap at each end."""
    ends = np.linspace(1.3, NOSE, 9)  # rounder than the middle
    x = np.unique([*np.linspace(-NOSE, NOSE, 23), *ends, *-ends])
    top, low, wide = height(BELT, x), height(SILL, x), half_width(x)
    grid = shell(
        x,
        [
            (wide - 0.10, low),
            (wide - 0.03, low + 0.10),
            (wide, (low + top) / 2),
            (wide - 0.02, top - 0.14),
            (wide - 0.13, top - 0.02),
            (wide * 0.45, top + 0.02),
        ],
    )
    return [(shape, BODY) for shape in (*quads(grid), grid[0], grid[-1])]


def cabin() -> list[tuple]:
    """All above the belt: flanks, rounded edges, and a strip over the roof that is glass in front and behind."""
    x = np.linspace(-1.64, 0.89, 35)
    belt = height(BELT, x)
    top = np.maximum(height(ROOF, x), belt)
    edge = np.maximum(top - 0.07, belt)
    section = [(cabin_width(x, z) - inset, z) for z, inset in ((belt, 0), (edge, 0), (top, 0.09))]
    middle = (x[:-1] + x[1:]) / 2
    clear = ((middle > 0.20) & (middle < 0.82)) | ((middle < -0.72) & (middle > -1.42))
    colors = [GLASS if strip == 2 and see_through else BODY for see_through in clear for strip in range(5)]
    return list(zip(quads(shell(x, section)), colors, strict=True))


def windows(side: int) -> list[tuple]:
    """The two side windows on one flank (side -1 or 1)."""
    panes = []
    for x in (np.linspace(-1.08, -0.29, 24), np.linspace(-0.07, 0.70, 24)):
        low = height(BELT, x) + 0.05
        high = np.maximum(height(ROOF, x) - 0.10, low)
        lower, upper = (points(x, side * (cabin_width(x, z) + 0.004), z) for z in (low, high))
        panes.append((np.concatenate([lower, upper[::-1]]), GLASS))
    return panes


def band(x: np.ndarray, side: int, low: ArrayLike, high: ArrayLike, color: tuple) -> list[tuple]:
    """A strip painted on one flank, from low to high at each x (n,)."""
    y = side * (half_width(x) + 0.006)
    return [(quad, color) for quad in quads(np.stack([points(x, y, low), points(x, y, high)], 1))]


def disc(x: float, y: float, z: float, radius: float) -> np.ndarray:
    """A circle that stands upright along the car."""
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    return points(x + radius * np.cos(angle), y, z + radius * np.sin(angle))


def flank(side: int) -> list[tuple]:
    """What one flank bears: the colour line, the ends of both lights, the badge, two wheels."""
    x, front, rear = np.linspace(-1.73, 1.68, 60), np.linspace(1.5, NOSE, 9), np.linspace(-NOSE, -1.48, 9)
    middle, thick = 0.74 - 0.05 * x, 0.17 * np.clip((1.68 - x) / 0.5, 0, 1) ** 0.6  # it ends in a point
    parts = band(x, side, middle - thick, middle + thick, LINE)
    parts += band(front, side, *LAMP, FRONT_LIGHT) + band(rear, side, *TAIL_LAMP, REAR_LIGHT)
    parts.append((disc(0, side * (HALF + 0.01), BADGE_Z, 0.28), BADGE))
    for x in WHEELS:
        y = half_width(x) + 0.012
        parts += [(disc(x, side * y, RADIUS, RADIUS), TYRE), (disc(x, side * (y + 0.004), RADIUS, 0.21), RIM)]
    return parts


def end(x: float, lamp: tuple, light: tuple) -> list[tuple]:
    """What the nose (x > 0) or the tail bears: a light from side to side, and a small badge."""
    wide, turn = half_width(x) + 0.006, np.linspace(0, 2 * np.pi, 6, endpoint=False)
    strip = points(x * 1.001, [-wide, wide, wide, -wide], np.repeat(lamp, 2))
    return [(strip, light), (points(x * 1.002, 0.13 * np.cos(turn), sum(lamp) / 2 + 0.13 * np.sin(turn)), BODY)]


def tyres() -> list[np.ndarray]:
    """The depth of the wheels, as discs side by side."""
    return [
        disc(x, side * y, RADIUS, RADIUS)
        for x in WHEELS
        for side in (-1, 1)
        for y in np.linspace(HALF - 0.32, HALF, 12)
    ]


class Eye:
    """Where the car is seen from, in degrees: yaw 0 shows a flank, nose to the right; -35 turns the nose to the eye.

    slope lifts the nose; pitch is how far the eye looks down.
    """

    def __init__(self, yaw: float, slope: float = 0, pitch: float = 9) -> None:
        (cy, sy), (cs, ss), (cp, sp) = ((np.cos(a), np.sin(a)) for a in np.radians([yaw, slope, pitch]))
        lift = np.array([[cs, 0, -ss], [0, 1, 0], [ss, 0, cs]])
        turn = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
        look = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
        self.matrix = look @ turn @ lift

    def turned(self, shape: np.ndarray) -> np.ndarray:
        """Points (n, 3) as the eye has them: x right, y away, z up."""
        return (shape - [0, 0, 0.7]) @ self.matrix.T

    def flat(self, shape: np.ndarray) -> np.ndarray:
        """Points (n, 3) in the picture (n, 2): x right, y down."""
        x, y, z = self.turned(shape).T
        return np.stack([x, -z], 1) * (DISTANCE / (DISTANCE + y))[:, None]

    def normal(self, shape: np.ndarray) -> np.ndarray:
        """The unit normal of a flat shape as the eye has it, pointing out of the car."""
        normal = np.cross(shape, np.roll(shape, -1, axis=0)).sum(0)
        outwards = shape.mean(0) * [0.1, 1, 1] - [0, 0, 0.62]  # away from the middle line of the car
        return self.matrix @ (normal * np.sign(normal @ outwards) / max(np.linalg.norm(normal), 1e-9))

    def sees(self, shape: np.ndarray) -> bool:
        """Whether the outer face of a flat shape is turned to the eye."""
        return bool(self.normal(shape) @ (self.turned(shape).mean(0) + [0, DISTANCE, 0]) < 0)


def tone(color: tuple, normal: np.ndarray) -> tuple:
    """Body and glass in one of a few tones, lighter towards the light; other colours as they are."""
    if color not in (BODY, GLASS):
        return color
    bright = round((0.70 + 0.50 * max(float(normal @ LIGHT), 0)) * 7) / 7
    return tuple(round(min(c * bright + 80 * max(bright - 1, 0), 255)) for c in color)


def svg(eye: Eye, width: float, left: float, bottom: float) -> str:
    """The car as SVG text: its width, its left and its lower edge as shares of the picture, the outline included."""
    layers = [
        body(),
        flank(-1),
        flank(1),
        end(NOSE, LAMP, FRONT_LIGHT),
        end(-NOSE, TAIL_LAMP, REAR_LIGHT),
        cabin(),
        windows(-1),
        windows(1),
    ]
    seen = [
        [(eye.flat(shape), tone(color, eye.normal(shape))) for shape, color in layer if eye.sees(shape)]
        for layer in layers
    ]
    rubber = [eye.flat(shape) for shape in tyres()]
    every = rubber + [flat for layer in seen for flat, _ in layer]
    low, high = np.concatenate(every).min(0), np.concatenate(every).max(0)
    scale = (width * SIDE - BORDER) / (high - low)[0]
    shift = np.array([left * SIDE + BORDER / 2 - low[0] * scale, bottom * SIDE - BORDER / 2 - high[1] * scale])

    def path(flats: list[np.ndarray], color: tuple, stroke: float) -> str:
        """Shapes of one colour as one path, so that no seam shows between neighbours."""
        outline = "".join("M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in flat * scale + shift) + "Z" for flat in flats)
        paint = f"rgb{color}"
        return f'<path d="{outline}" fill="{paint}" stroke="{paint}" stroke-width="{stroke}"/>'

    paths = [path(every, OUTLINE, BORDER), path(rubber, TYRE, 0.5)]
    for layer in seen:
        paths += [
            path([flat for flat, own in layer if own == color], color, 0.5)
            for color in dict.fromkeys(color for _, color in layer)
        ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIDE} {SIDE}" stroke-linejoin="round">'
        f"{''.join(paths)}</svg>"
    )
