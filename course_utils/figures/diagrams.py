"""Figures of structure: the course's three modules, a U-Net read off the real network, a matrix as coloured squares."""

from __future__ import annotations

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from course_utils.figures.plotting import AXIS, DATA, FACE, INK, LATENT, MODEL, TEXT, WIDTH, labelled_axes, to_numpy


def canvas(width, height, title=None):
    """An empty drawing surface measured in inches."""
    fig = plt.figure(figsize=(width, height), layout="none")
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(0, height))
    ax.axis("off")
    ax.text(0.08, height - 0.1, title or "", va="top", fontsize=13, fontweight="bold")
    return fig, ax


def box(ax, x, y, w, h, text, color, filled=True, **font) -> None:
    """A rounded box with centred text; x, y: its centre."""
    ax.add_patch(
        FancyBboxPatch(
            (x - w / 2, y - h / 2),
            w,
            h,
            boxstyle="round,pad=0,rounding_size=0.07",
            linewidth=1.8,
            facecolor=color if filled else FACE,
            edgecolor=color,
        )
    )
    ax.text(x, y, text, ha="center", va="center", color="white" if filled and color == MODEL else INK, **font)


def arrow(ax, start, end, color=AXIS, curve=0.0, **line) -> None:
    """An arrow from point to point; curve bends it."""
    ax.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=11,
            color=color,
            shrinkA=0,
            shrinkB=0,
            connectionstyle=f"arc3,rad={curve}",
            **line,
        )
    )


def strip(where=()) -> Figure:
    """Draw "text encoder -> generator -> decoder" with the modules named in `where` (one name or several) filled.

    Raises ValueError on an unknown name.
    """
    where, modules = (where,) if isinstance(where, str) else tuple(where), ("text encoder", "generator", "decoder")
    if unknown := set(where) - set(modules):
        raise ValueError(f"No module is called {sorted(unknown)[0]!r}; the three are {', '.join(modules)}.")
    fig, ax = canvas(WIDTH, 0.66)
    for x, name, color in zip((1.72, 4.22, 6.45), modules, (TEXT, MODEL, LATENT), strict=True):
        here = name in where
        box(ax, x, 0.33, 1.4, 0.44, name, color, here, fontweight="bold" if here else "normal", fontsize=12)
    for start, end, word in ((0.1, 1.0, "prompt"), (2.44, 3.5, "context"), (4.94, 5.73, "z"), (7.17, 7.9, "picture")):
        arrow(ax, (start, 0.24), (end, 0.24))
        ax.text((start + end) / 2 - 0.04, 0.31, word, ha="center", va="bottom", fontsize=10.5)
    return fig


def _stages(unet, size) -> list[tuple[int, str, bool]]:
    """Read (side in pixels, text, has attention) of every part off the network, from input to output."""
    stages = [(size, f"{size}\u00d7{size}\n{unet.conv_in.out_channels} ch\nconv_in", False)]
    for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
        attention = any(a is not None for a in (getattr(block, "attentions", None) or ()))
        channels = block.resnets[-1].conv2.out_channels
        stages.append((size, f"{size}\u00d7{size}\n{channels} ch\n{len(block.resnets)} res", attention))
        size = size // 2 if getattr(block, "downsamplers", None) else size
        size = size * 2 if getattr(block, "upsamplers", None) else size
    return [*stages, (size, f"{size}\u00d7{size}\n{unet.conv_out.out_channels} ch\nconv_out", False)]


def unet_diagram(network, size=32, title="The U-Net: side, channels, residual blocks at every level") -> Figure:
    """Draw a U-Net as boxes, lower where the picture is smaller, with every skip and the step that each block is told.

    network: a module with diffusers' structure (down_blocks, mid_block, up_blocks), or one in `Patched`, whose folding
    is drawn as well; size: side of the picture in pixels.
    """
    patch, unet = getattr(network, "patch", 1), getattr(network, "unet", network)
    stages, down = _stages(unet, size // patch), len(unet.down_blocks)
    if patch > 1:
        picture = f"{size}\u00d7{size}\n{unet.conv_in.in_channels // patch**2} ch"
        stages = [(size // patch, f"{picture}\nfold", False), *stages, (size // patch, f"{picture}\nunfold", False)]
    first = 1 + (patch > 1)  # of the boxes, the first of the way down
    levels = sorted({side for side, *_ in stages}, reverse=True)
    step = (WIDTH - 0.1) / len(stages)
    width = min(1.25, step - 0.1)
    fig, ax = canvas(WIDTH, 1.6 + 1.0 * len(levels), title)
    places = [
        (0.05 + step * (i + 0.5), 1.2 + 1.0 * (len(levels) - 1 - levels.index(side)))
        for i, (side, *_) in enumerate(stages)
    ]
    font = 10 if width > 0.8 else 9
    for (_, text, attention), (x, y) in zip(stages, places, strict=True):
        box(ax, x, y, width, 0.68, text, MODEL, attention, fontsize=font)
    for (x, y), (x2, y2) in pairwise(places):
        arrow(ax, (x + width / 2, y - 0.1 * (y2 < y)), (x2 - width / 2, y2 + 0.1 * (y2 < y)))
    blocks = places[first : len(places) - first]
    ax.plot([blocks[0][0], blocks[-1][0]], [0.62, 0.62], ":", color=AXIS, linewidth=1.4)
    ax.plot([WIDTH / 2] * 2, [0.5, 0.62], ":", color=AXIS, linewidth=1.4)
    for x, y in blocks:
        arrow(ax, (x, 0.62), (x, y - 0.34), AXIS, linestyle=":", linewidth=1.4)
    box(ax, WIDTH / 2, 0.3, 1.6, 0.4, "step t \u2192 e(t) \u2192 temb", AXIS, False, fontsize=10)
    for i in range(down):  # level i of the way up pops what its mirror image kept, and what came before that
        (x, y), (x2, y2), (before, _) = places[first + i], places[-1 - first - i], places[first + i - 1]
        start = (before, y + 0.34) if i == 0 else ((before + x) / 2 + 0.02, y + 0.42)
        arrow(ax, start, (x2 + 0.14, y2 + 0.34), DATA, -0.16, linestyle="--", linewidth=1.3)
        for k in range(len(unet.down_blocks[i].resnets)):
            arrow(
                ax,
                (x + 0.08 * k, y + 0.34),
                (x2 - 0.14 - 0.08 * k, y2 + 0.34),
                DATA,
                -0.11 + 0.03 * k,
                linestyle="--",
                linewidth=1.3,
            )
    legend = "filled: with attention\ndashed: skips, each a torch.cat\ndotted: the step, to every block"
    ax.text(0.1, 0.08, legend, color=AXIS, fontsize=10)
    return fig


def plot_heatmap(
    matrix, xlabels=None, ylabels=None, title=None, xlabel="", ylabel="", values=None, limits=None
) -> Figure:
    """Draw a matrix as coloured squares (attention, similarity); values="{:.2f}" also writes the numbers."""
    m = to_numpy(matrix)
    ax = labelled_axes(title, xlabel, ylabel, min(5.5, max(2.6, WIDTH * 0.75 * m.shape[0] / m.shape[1] + 1.0)))
    low, high = limits or (m.min(), m.max())
    image = ax.imshow(m, cmap="cividis", vmin=low, vmax=high)  # cividis: even steps for colour-blind readers too
    for names, axis in ((xlabels, ax.xaxis), (ylabels, ax.yaxis)):
        axis.set_ticks(range(len(names)), names) if names is not None else None
    if xlabels is not None and max(map(len, xlabels)) * m.shape[1] > 60:
        plt.setp(ax.get_xticklabels(), rotation=40, ha="right", rotation_mode="anchor")
    for (i, j), v in np.ndenumerate(m) if values else ():
        ax.text(
            j,
            i,
            values.format(v),
            ha="center",
            va="center",
            fontsize=10,
            color="white" if v < (low + high) / 2 else "black",
        )
    ax.grid(False)
    ax.figure.colorbar(image, ax=ax, shrink=0.9).outline.set_visible(False)
    return ax.figure
