"""Two kinds of points that belong together, pair by pair: pictures and words on their way into one space."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from course_utils.figures.plotting import AXIS, DATA, TEXT, WIDTH, to_numpy


def plot_pairs(rows: dict, titles=None, title: str | None = None) -> Figure:
    """Draw a strip of frames per row: pictures and words as points on the unit circle, each pair joined by a line.

    rows: label -> list of frames (image_embed (N, 2), text_embed (N, 2)), all of unit length; titles: one a column.
    """
    columns = max(map(len, rows.values()))
    side = min(1.9, (WIDTH - 0.4) / columns)
    size = (side * columns + 0.4, side * len(rows) + 0.9)
    fig, axes = plt.subplots(len(rows), columns, figsize=size, squeeze=False, layout="compressed")
    angle = np.linspace(0, 2 * np.pi, 200)
    for i, (label, frames) in enumerate(rows.items()):
        axes[i, 0].set_ylabel(label, fontsize=12)
        for ax, (images, texts) in zip(axes[i], frames, strict=True):
            images, texts = to_numpy(images), to_numpy(texts)
            ax.plot(np.cos(angle), np.sin(angle), color=AXIS, linewidth=0.8, alpha=0.5)
            for a, b in zip(images, texts, strict=True):
                ax.plot(*np.stack([a, b], axis=1), color=AXIS, linewidth=1)
            ax.scatter(*images.T, s=46, color=DATA, label="picture", zorder=3)
            ax.scatter(*texts.T, s=46, color=TEXT, marker="D", label="its words", zorder=4, alpha=0.8)
            ax.spines[:].set_visible(False)
            ax.set(xlim=(-1.2, 1.2), ylim=(-1.2, 1.2), aspect="equal", xticks=(), yticks=())
    for ax, name in zip(axes[0], titles if titles is not None else ()):
        ax.set_title(name, loc="center", fontsize=12, fontweight="normal")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=11)
    fig.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold") if title else None
    return fig
