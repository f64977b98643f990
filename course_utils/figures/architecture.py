"""Figures of whole systems: Stable Diffusion with the shape on every arrow, and the doors by which conditions enter."""

from __future__ import annotations

from itertools import pairwise

from matplotlib.figure import Figure

from course_utils.figures.diagrams import _stages, arrow, box, canvas
from course_utils.figures.plotting import AXIS, DATA, INK, LATENT, MODEL, NOISE, REFERENCE, TEXT, WIDTH

REAL = {  # Stable Diffusion 1.5: its model card, and the config.json of its parts
    "tokens": (77,),
    "context": (77, 768),
    "latent": (4, 64, 64),
    "picture": (3, 512, 512),
    "scale": 0.18215,
    "unet": "320, 640, 1280, 1280 channels at 64\u00d764, 32\u00d732, 16\u00d716, 8\u00d78;\n"
    "cross-attention at the first three and in the middle",
}


def shape(sizes: tuple[int, ...]) -> str:
    """(B, 4, 16, 16) for (4, 16, 16)."""
    return f"(B, {', '.join(map(str, sizes))})"


def labelled_arrow(ax, start, end, ours: str, real: str = "", color=AXIS) -> None:
    """A level arrow with our shape above it, and Stable Diffusion 1.5's below."""
    arrow(ax, start, end, color)
    middle = (start[0] + end[0]) / 2
    ax.text(middle, start[1] + 0.06, ours, ha="center", va="bottom", fontsize=9, color=INK)
    ax.text(middle, start[1] - 0.07, real, ha="center", va="top", fontsize=9, color=DATA)


def _unet(ax, unet, side: int, top: float) -> list[tuple[float, float]]:
    """Draw the U-Net's boxes, lower where the map is smaller; returns the places of those with cross-attention."""
    stages = _stages(unet, side)
    levels = sorted({size for size, *_ in stages}, reverse=True)
    step = (WIDTH - 1.9) / (len(stages) - 1)
    places = [(0.95 + step * i, top - 0.72 * levels.index(size)) for i, (size, *_) in enumerate(stages)]
    for (_, text, attention), (x, y) in zip(stages, places, strict=True):
        box(ax, x, y, step - 0.1, 0.58, "\n".join(text.split("\n")[:2]), MODEL, attention, fontsize=9)
    for (x, y), (x2, y2) in pairwise(places):
        half = (step - 0.1) / 2
        arrow(ax, (x + half, y - 0.1 * (y2 < y)), (x2 - half, y2 + 0.1 * (y2 < y)))
    for i in range(len(stages) // 2):  # what the way down keeps, the way up reads
        (x, y), (x2, _) = places[i], places[-2 if i == 0 else -1 - i]  # the last block up reads conv_in too
        arrow(ax, (x + 0.1, y + 0.29), (x2 - 0.1 * (i > 0), y + 0.29), AXIS, -0.06, linestyle="--", linewidth=1.1)
    return [place for place, (*_, attention) in zip(places, stages, strict=True) if attention]


def system_diagram(system, size: int = 64, title="Three modules, and the shape on every arrow") -> Figure:
    """Draw a `StableDiffusion` as it is: every number is read off its networks; in blue Stable Diffusion 1.5's.

    size: pixels a side of the picture.
    """
    length, width = system.encode_prompt("").shape[1:]
    side, channels = size // system.factor, system.vae.post_quant_conv.in_channels
    latent, real = shape((channels, side, side)), shape(REAL["latent"])
    fig, ax = canvas(WIDTH, 5.9, title)
    y = 5.1
    ax.text(0.35, y, "prompt", ha="center", va="center", fontsize=10.5)
    arrow(ax, (0.7, y), (1.0, y))
    box(ax, 1.55, y, 1.1, 0.46, "tokenizer", TEXT, False, fontsize=10.5)
    labelled_arrow(ax, (2.12, y), (3.2, y), shape((length,)), shape(REAL["tokens"]))
    box(ax, 3.95, y, 1.5, 0.46, "text encoder", TEXT, True, fontsize=10.5)
    labelled_arrow(ax, (4.72, y), (6.25, y), shape((length, width)), shape(REAL["context"]), TEXT)
    ax.text(6.32, y, "context c", ha="left", va="center", fontsize=10.5, color=TEXT, fontweight="bold")
    attended, bus = _unet(ax, system.unet, side, 3.75), 4.42
    ax.plot([attended[0][0], 6.7], [bus, bus], color=TEXT, linewidth=1.8)
    ax.plot([6.7, 6.7], [bus, y - 0.14], color=TEXT, linewidth=1.8)
    for x, place in attended:
        arrow(ax, (x, bus), (x, place + 0.3), TEXT, linewidth=1.4)
    ax.text(0.08, bus, "cross-attention, in\nall filled boxes", va="center", fontsize=9, color=TEXT)
    pooled = getattr(system.unet, "add_embedding", None) is not None
    told = "step t, and c folded into one vector" if pooled else "step t"
    box(ax, WIDTH / 2, 1.62, 3.8, 0.32, f"{told} \u2192 every box", AXIS, False, fontsize=9.5)
    ax.text(0.08, 3.08, f"z$_t$ {latent}", fontsize=9, va="top")
    ax.text(WIDTH - 0.08, 3.08, f"{system.prediction} {latent}", fontsize=9, va="top", ha="right")
    arrow(ax, (0.95, 3.14), (0.95, 3.45), LATENT)
    arrow(ax, (WIDTH - 0.95, 3.45), (WIDTH - 0.95, 3.14), MODEL)
    ax.text(0.08, 1.62, "dashed: skips", fontsize=9, va="center", color=AXIS)
    ax.text(WIDTH / 2, 1.33, "Stable Diffusion 1.5: " + REAL["unet"], ha="center", va="top", fontsize=9, color=DATA)
    y = 0.5
    ax.text(0.45, y, "noise z$_T$", ha="center", va="center", fontsize=10.5)
    labelled_arrow(ax, (0.88, y), (1.95, y), latent, real, NOISE)
    box(ax, 2.75, y, 1.55, 0.46, "sampler: calls the\nU-Net at each step", MODEL, False, fontsize=9)
    labelled_arrow(ax, (3.56, y), (4.78, y), f"z$_0$ {latent}", real, LATENT)
    box(ax, 5.5, y, 1.4, 0.46, f"\u00f7 {system.scaling_factor:g}, decoder", LATENT, True, fontsize=10)
    ax.text(5.5, y - 0.27, f"\u00f7 {REAL['scale']}", ha="center", va="top", fontsize=9, color=DATA)
    labelled_arrow(ax, (6.24, y), (WIDTH - 0.1, y), f"picture {shape((3, size, size))}", shape(REAL["picture"]))
    return fig


def conditions_diagram(doors: dict[str, dict], title="What a condition adds to the U-Net") -> Figure:
    """Draw one small panel a condition: channels beside the latent, tokens from above, or a copy that adds.

    doors: name -> {"beside": {what: channels}, "tokens": text, "start": text, "added": text}, each where it applies;
    start: what stands in place of the noise.
    """
    columns, width, height = 3, WIDTH / 3, 1.75
    rows = -(-len(doors) // columns)
    fig, ax = canvas(WIDTH, rows * height + 0.4, title)
    for i, (name, door) in enumerate(doors.items()):
        left, low = (i % columns) * width, (rows - 1 - i // columns) * height
        ax.text(left + 0.1, low + height - 0.12, name, fontsize=11, va="top", fontweight="bold")
        _panel(ax, left + 0.1, low + 0.75, **door)
    return fig


def _panel(ax, x: float, y: float, beside=None, tokens=None, start=None, added=None) -> None:
    """One condition: the latent and what lies beside it, the U-Net, and what comes from above or below."""
    blocks = [(start or "z$_t$", 4, LATENT), *((what, count, REFERENCE) for what, count in (beside or {}).items())]
    unet = (x + 1.85, y)
    place = y + 0.17 * (len(blocks) - 1)
    for what, count, color in blocks:
        box(ax, x + 0.5, place, 0.98, 0.29, f"{what} \u00b7 {count}", color, fontsize=9)
        place -= 0.34
    arrow(ax, (x + 1.03, y), (unet[0] - 0.44, y))
    box(ax, *unet, 0.86, 0.46, "U-Net", MODEL, not added, fontsize=10)
    if tokens:
        ax.text(unet[0] - 0.1, y + 0.56, tokens, ha="right", va="center", fontsize=9, color=TEXT)
        arrow(ax, (unet[0], y + 0.66), (unet[0], y + 0.24), TEXT, linewidth=1.6)
    if added:
        box(ax, unet[0], y - 0.52, 0.86, 0.29, added, MODEL, fontsize=9)
        box(ax, x + 0.5, y - 0.52, 0.98, 0.29, "lines, pose, \u2026", REFERENCE, fontsize=9)
        arrow(ax, (x + 1.03, y - 0.52), (unet[0] - 0.44, y - 0.52))
        arrow(ax, (unet[0], y - 0.37), (unet[0], y - 0.24), MODEL)
        ax.text(unet[0] + 0.05, y - 0.31, "+", va="center", fontsize=10)
