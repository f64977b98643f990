"""One look for every figure: one colour per quantity, big type, legible on light and dark pages.

Every function returns a Figure and shows nothing; a cell ends with `plt.show()`. Structure is drawn by `diagrams.py`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import font_manager
from matplotlib.figure import Figure

# Okabe-Ito: told apart by colour-blind readers and in grey print; one colour per quantity through the course
DATA, NOISE, MODEL, TEXT = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
LATENT, REFERENCE, AXIS = "#E69F00", "#56B4E9", "#5F6368"
INK, FACE = "#1F2328", "#F7F7F4"  # figures carry their own near-white page: they read the same in a dark theme
CYCLE = (DATA, NOISE, MODEL, TEXT, LATENT, REFERENCE)
WIDTH = 8.0  # inches; at 110 dpi 880 pixels, the width of a page on GitHub
WIDE = r"\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef"  # Chinese characters and punctuation: twice as wide as a letter
NO_START = "\uff0c\u3002\u3001\uff1a\uff1b\uff01\uff1f\uff09"  # full-width , . : ; ! ? ) never begin a line
FONT = Path(__file__).parent / "fonts" / "NotoSansSC-course.ttf"  # Chinese captions where the machine has no font
SYSTEM_FONTS = ("Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei")  # for characters rarer than FONT's 4,000


def use_course_style() -> None:
    """Set matplotlib's defaults (sizes, colours, a font for Chinese) for the whole notebook."""
    fonts = font_manager.fontManager
    fonts.addfont(str(FONT))
    fonts.ttflist.append(replace(fonts.ttflist[-1], weight=700))  # bold titles: the same glyphs, and no warning
    known = {font.name for font in fonts.ttflist}
    plt.rcParams.update(
        {
            "font.family": [name for name in ("DejaVu Sans", fonts.ttflist[-1].name, *SYSTEM_FONTS) if name in known],
            "font.size": 12,
            "axes.titlesize": 13,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.labelsize": 12,
            "xtick.labelsize": 11,
            "ytick.labelsize": 11,
            "legend.frameon": False,
            "figure.dpi": 110,
            "savefig.dpi": 110,  # sharp when projected; a notebook stays under 1.5 MB
            "figure.figsize": (WIDTH, 3.6),
            "figure.facecolor": FACE,
            "savefig.facecolor": FACE,
            "axes.facecolor": FACE,
            "axes.edgecolor": AXIS,
            "axes.labelcolor": INK,
            "xtick.color": AXIS,
            "ytick.color": AXIS,
            "text.color": INK,
            "axes.titlecolor": INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#E3E5E8",
            "axes.axisbelow": True,
            "lines.linewidth": 2.2,
            "axes.unicode_minus": False,
            "axes.prop_cycle": plt.cycler(color=CYCLE),
            "figure.constrained_layout.use": True,
        }
    )


def to_pictures(pictures, limits=(-1.0, 1.0)) -> list[np.ndarray]:
    """Turn one picture or many into a list of RGB arrays (H, W, 3) in [0, 1].

    pictures: tensor, array or list of them; (H, W), (C, H, W), (H, W, C) or a batch of these; C = 1 or 3, or 4 for
    uint8 RGBA, which is laid on white; floats in `limits` (clipped). Raises ValueError on any other shape.
    """
    if isinstance(pictures, (list, tuple)):
        return [one for each in pictures for one in to_pictures(each, limits)]
    whole, x = "uint8" in str(pictures.dtype), to_numpy(pictures)
    if x.ndim == 2 or (x.ndim == 3 and x.shape[0] not in (1, 3, 4) and x.shape[-1] not in (1, 3, 4)):
        x = x[..., None]  # grey pictures without a channel axis
    x = x[None] if x.ndim == 3 else x
    if x.ndim == 4 and x.shape[1] in (1, 3, 4) and not (whole and x.shape[-1] in (1, 3, 4)):
        x = x.transpose(0, 2, 3, 1)
    if x.ndim != 4 or x.shape[-1] not in (1, 3, 4) or (x.shape[-1] == 4 and not whole):
        raise ValueError(
            f"Pictures have 1 or 3 channels, but the shape here is {tuple(pictures.shape)}: "
            "decode a latent first, or show its channels one by one."
        )
    x = x / 255 if whole else np.clip((x - limits[0]) / (limits[1] - limits[0]), 0, 1)
    x = x[..., :3] * x[..., 3:] + 1 - x[..., 3:] if x.shape[-1] == 4 else x
    return list(np.broadcast_to(x, (*x.shape[:3], 3)))


def wrap(text: str, inches: float, size: float = 10) -> str:
    """Break a caption, English or Chinese, into lines that fit a width."""
    room, lines = inches * 72 / (size * 0.56), [""]  # an average letter is 0.56 of the type size wide
    span = lambda s: len(s) + len(re.findall(f"[{WIDE}]", s))  # noqa: E731
    for piece in re.findall(rf"[{WIDE}]\s*|[^\s{WIDE}]+\s*", str(text)):
        if lines[-1] and span(lines[-1] + piece.rstrip()) > room and piece.rstrip() not in NO_START:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def _cell(fig, box, picture, nearest) -> partial:
    """Draw one picture at box = (x, y, side) in inches; returns a writer of text in the cell's own 0-1 coordinates."""
    (width, height), (x, y, side) = fig.get_size_inches(), box
    ax = fig.add_axes((x / width, y / height, side / width, side / height))
    ax.axis("off")
    if picture is not None:
        ax.imshow(picture, interpolation="nearest" if nearest else "lanczos", vmin=0, vmax=1)
    return partial(ax.text, transform=ax.transAxes)


def _grid(cells, columns, title, titles, row_labels, column_labels, scale, nearest) -> Figure:
    """Lay pictures out on an exact grid, measured in inches; None leaves a cell empty."""
    names = [wrap(label, 1.5, 12) for label in row_labels or ()]
    left = max((len(line) * 0.087 + 0.2 for name in names for line in name.split("\n")), default=0.08)
    side = min(1.35 * scale, (WIDTH - left - 0.08) / columns - 0.06)
    titles = [wrap(t, side + 0.06) for t in (titles if titles is not None else ())]
    under = max((0.19 * t.count("\n") + 0.27 for t in titles), default=0)
    top = (0.42 if title else 0.08) + (0.26 if column_labels is not None else 0)
    width = max(left + columns * (side + 0.06) + 0.08, len(title or "") * 0.115 + 0.3)
    height = top + -(-len(cells) // columns) * (side + 0.06 + under) + 0.06
    fig = plt.figure(figsize=(width, height), layout="none")
    fig.text(0.08 / width, 1 - 0.1 / height, title or "", va="top", fontsize=13, fontweight="bold")
    for i, picture in enumerate(cells):
        x, y = left + (i % columns) * (side + 0.06), height - top - (i // columns) * (side + 0.06 + under) - side
        write = _cell(fig, (x, y, side), picture, nearest)
        write(0.5, -0.05 / side, titles[i] if i < len(titles) else "", ha="center", va="top", fontsize=10)
        if names and i % columns == 0:
            write(-0.1 / side, 0.5, names[i // columns], ha="right", va="center")
        if column_labels is not None and i < min(columns, len(column_labels)):
            write(0.5, 1 + 0.06 / side, column_labels[i], ha="center", va="bottom", fontsize=11)
    return fig


def show_pictures(
    pictures,
    titles=None,
    columns=8,
    title=None,
    scale=1.0,
    nearest=True,
    row_labels=None,
    column_labels=None,
    limits=(-1.0, 1.0),
) -> Figure:
    """Draw small pictures (see `to_pictures`) enlarged on a grid, row by row.

    titles: a caption under each; scale 1: up to 1.35 inches a picture; nearest=False smooths, for 128 pixels and more.
    """
    cells = to_pictures(pictures, limits)
    return _grid(cells, min(columns, len(cells)), title, titles, row_labels, column_labels, scale, nearest)


def show_rows(rows: dict, column_labels=None, title=None, scale=1.0, nearest=True, limits=(-1.0, 1.0)) -> Figure:
    """Draw a film strip: one labelled row per entry of `rows` (label -> pictures), columns side by side."""
    strips = [to_pictures(pictures, limits) for pictures in rows.values()]
    columns = max(map(len, strips))
    cells = [cell for s in strips for cell in s + [None] * (columns - len(s))]
    return _grid(cells, columns, title, None, list(rows), column_labels, scale, nearest)


def to_numpy(values) -> np.ndarray:
    """Tensors, lists and arrays alike as a NumPy array."""
    return np.asarray(values.detach().cpu().double() if hasattr(values, "detach") else values, dtype=np.float64)


def labelled_axes(title, xlabel, ylabel, height=3.6, ax=None):
    """An empty labelled plot, or the given axes with labels."""
    ax = ax or plt.subplots(figsize=(WIDTH, height))[1]
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title or "")
    return ax


def plot_lines(
    x, series: dict, xlabel="", ylabel="", title=None, logx=False, logy=False, direct_labels=True, ax=None
) -> Figure:
    """Draw lines named at their right ends (up to four, else a legend).

    x: (N,); series: label -> y (N,), or (y, color), or (y, color, "--"); ax: draw into these axes instead.
    """
    ax = labelled_axes(title, xlabel, ylabel, ax=ax)
    ax.set(xscale="log" if logx else "linear", yscale="log" if logy else "linear")
    for (label, spec), default in zip(series.items(), CYCLE * 9, strict=False):
        y, color, style = (*spec, "-")[:3] if isinstance(spec, tuple) else (spec, default, "-")
        ax.plot(to_numpy(x), to_numpy(y), style, color=color, label=label)
    if direct_labels and len(series) <= 4:
        _label_ends(ax)
    elif len(series) > 1:
        ax.legend(ncols=2 if len(series) > 6 else 1, fontsize=11)
    return ax.figure


def _label_ends(ax) -> None:
    """Write each line's name at its last point, pushed up where two would touch."""
    ax.figure.canvas.draw()  # positions in pixels are known only after the axes have found their limits
    floor, line_height = -np.inf, 1.25 * plt.rcParams["font.size"]
    ends = [
        (ax.transData.transform(xy)[1] * 72 / ax.figure.dpi, xy[1], line)
        for line in ax.lines
        for xy in line.get_xydata()[np.isfinite(line.get_ydata())][-1:]
        if line.get_label()[0] != "_"
    ]
    for y, value, line in sorted(ends, key=lambda end: end[0]):
        floor = max(y, floor + line_height)
        ax.annotate(
            line.get_label(),
            (1.01, value),
            (0, floor - y),
            ("axes fraction", "data"),
            "offset points",
            va="center",
            color=line.get_color(),
            fontweight="bold",
            annotation_clip=False,
        )


def plot_points(frames, titles=None, title=None, color=DATA, limit=None) -> Figure:
    """Draw 2-D point clouds side by side on equal axes.

    frames: list of (N, 2), or of {color: (N, 2)} to lay clouds over each other; limit: half the side shown.
    """
    clouds = [{c: to_numpy(xy) for c, xy in (f if isinstance(f, dict) else {color: f}).items()} for f in frames]
    limit = limit or 1.08 * max(np.abs(xy).max() for cloud in clouds for xy in cloud.values())
    side, tick = min(2.6, WIDTH / len(clouds)), float(f"{limit / 1.2:.1g}")
    fig, axes = plt.subplots(
        1,
        len(clouds),
        figsize=(max(side * len(clouds), 3), side + 0.75),
        sharey=True,
        squeeze=False,
        layout="compressed",
    )
    for i, (ax, cloud) in enumerate(zip(axes[0], clouds, strict=True)):
        for c, xy in cloud.items():
            ax.scatter(*xy.T, s=min(10, 6000 / len(xy)), color=c, alpha=0.6, linewidths=0)
        ax.set(
            xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=(-tick, 0, tick), yticks=(-tick, 0, tick)
        )
        ax.set_title(titles[i] if titles is not None else "", loc="center", fontsize=12, fontweight="normal")
    fig.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold") if title else None
    return fig


def plot_loss(steps, loss, band=None, title="Loss by step", ylabel="loss") -> Figure:
    """Draw a loss curve; band = (low, high) shades where the end of a normal run lies."""
    steps, loss = to_numpy(steps), to_numpy(loss)
    smooth = np.convolve(np.pad(loss, (15, 15), mode="edge"), np.ones(31) / 31, "valid")  # one batch's loss jumps
    ax = labelled_axes(title, "step", ylabel)
    ax.plot(steps, loss, color=MODEL, alpha=0.3, linewidth=1)
    ax.plot(steps, smooth, color=MODEL, label="mean of 31 steps")
    if band:
        ax.axhspan(*band, color=REFERENCE, alpha=0.35, linewidth=0, label="where a normal run ends")
    ax.set_ylim(0, min(loss.max(), 3 * np.quantile(loss, 0.9)) * 1.05)  # the first steps would flatten the rest
    ax.legend()
    return ax.figure
