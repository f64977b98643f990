"""Training examples composed on the fly: an emoji, perhaps in another colour, on a background, with a true caption."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

from course_utils.data import Emoji, load_scenes, load_splits
from course_utils.datasets.captions import (  # noqa: F401
    BACKGROUNDS,
    LANGUAGES,
    PLAIN,
    SCENES,
    WORDS_ZH,
    caption,
)
from course_utils.datasets.nouns import NAMES_COLOR
from course_utils.errors import DataError

# The look a recoloured subject is moved to: hue in degrees, saturation, value.
COLORS = {
    "red": (358, 0.85, 0.90),
    "orange": (26, 0.90, 1.0),
    "yellow": (52, 0.85, 1.0),
    "green": (125, 0.70, 0.75),
    "blue": (216, 0.80, 0.90),
    "purple": (274, 0.65, 0.80),
    "pink": (332, 0.48, 1.0),
}


def _hsv(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hue in [0, 6), saturation and value in [0, 1], from uint8 (..., 3)."""
    r, g, b = (rgb[..., i] * np.float32(1 / 255) for i in range(3))
    value = np.maximum(np.maximum(r, g), b)
    chroma = value - np.minimum(np.minimum(r, g), b)
    safe = np.maximum(chroma, np.float32(1e-6))
    hue = np.where(value == r, (g - b) / safe, np.where(value == g, (b - r) / safe + 2, (r - g) / safe + 4))
    return hue + 6 * (hue < 0), chroma / np.maximum(value, np.float32(1e-6)), value


def dominant_color(rgb: np.ndarray, alpha: np.ndarray) -> str | None:
    """The word for the colour of a subject, or None if no colour clearly leads. Built in notebook 01.

    rgb: uint8 (H, W, 3); alpha: uint8 (H, W). Every opaque pixel votes for a word. A colour wins with a third
    of the votes and twice those of the next; black, white and grey win only where there is hardly any colour.
    """
    hue, sat, value = _hsv(rgb[alpha > 200])
    if not len(hue):
        return None
    ends = np.array([15, 36.5, 68, 165, 255, 292, 345]) / 60  # where red, orange, … pink end; after pink, red again
    word = np.digitize(hue, ends) % 7
    word[((word == 0) | (word == 6)) & (sat < 0.6) & (value > 0.75)] = 6  # light red is pink
    word[(word == 6) & (value < 0.55)] = 5  # dark pink is purple
    dark = ((word == 0) & (sat < 0.7) & (value < 0.55)) | ((word == 1) & (value < 0.75)) | ((word == 2) & (value < 0.6))
    word[dark] = 7  # dark orange is brown
    word[(word == 1) & (sat < 0.45) & (value >= 0.75)] = 11  # beige, skin, wood: no word of ours
    grey = (sat * value < 0.16) | (value < 0.2)
    word[grey] = np.where(value[grey] < 0.3, 8, np.where(value[grey] > 0.85, 9, 10))
    votes = np.bincount(word, minlength=12) / len(word)
    second, first = np.sort(votes[:8])[-2:]
    if first >= 1 / 3 and first >= 2 * second:
        return list(WORDS_ZH)[votes[:8].argmax()]
    return list(WORDS_ZH)[8 + votes[8:11].argmax()] if votes[8:11].max() >= 0.6 and votes[:8].sum() < 0.25 else None


def _peak(hue: np.ndarray, weight: np.ndarray) -> float:
    """The dominant hue: the highest point of the weighted histogram on the colour circle, in [0, 6)."""
    counts = np.bincount((hue * 8).astype(np.int64) % 48, weight, minlength=48)
    ring = np.concatenate([counts[-1:], counts, counts[:1]])  # the circle closes: red has neighbours on both sides
    best = (ring[:-2] + ring[1:-1] + ring[2:]).argmax()
    return float(
        (best + np.array([-0.5, 0.5, 1.5])) @ ring[best : best + 3] / max(ring[best : best + 3].sum(), 1e-9) / 8 % 6
    )


def recolor(rgba: np.ndarray, color: str) -> np.ndarray:
    """Turn the dominant hue of a picture, uint8 (H, W, 4), to one of COLORS; other hues stay. Built in notebook 01.

    In hue, saturation and value: coloured pixels within 50° of the dominant hue move to the target, keeping half
    their distance from it (shading survives); saturation and value change so that their means meet the target's.
    """
    target, target_sat, target_value = COLORS[color]
    index = np.flatnonzero(rgba[..., 3])
    hue, sat, value = _hsv(rgba.reshape(-1, 4)[index])
    weight = sat * value
    away = hue - _peak(hue, weight)
    away -= 6 * np.rint(away / 6)  # the shorter way round the circle
    near = (np.abs(away) < 5 / 6) & (weight > 0.1)  # greys, outlines and highlights keep their look
    away, sat, value, weight = away[near], sat[near], value[near], weight[near]
    mean_sat, mean_value = (float(x @ weight) / max(float(weight.sum()), 1e-6) for x in (sat, value))
    bend = float(np.log(target_value * 0.98) / np.log(np.clip(mean_value, 0.02, 0.98)))  # brightening bends: 1 stays 1
    value = value ** max(bend, 0.35) if bend < 1 else value * min(target_value / max(mean_value, 0.02), 1)
    chroma = value * np.minimum(sat * min(max(target_sat / max(mean_sat, 0.01), 0.3), 2.5), 1)
    out = rgba.copy()
    for channel in range(3):  # a channel loses no chroma at its own hue, 2 * channel, and all of it at the opposite one
        opposite = (target / 60 - 2 * channel) % 6 - 3
        missing = chroma * np.clip(2 - np.abs(away / 2 + opposite), 0, 1)
        out.reshape(-1, 4)[index[near], channel] = (value - missing) * 255 + 0.5
    return out


def resized(rgba: np.ndarray, side: int) -> Image.Image:
    """uint8 (S, S, 4) as a picture of side × side; Pillow premultiplies alpha, Hamming is sharp and quick."""
    picture = Image.fromarray(rgba)
    return picture if side == len(rgba) else picture.resize((side, side), Image.Resampling.HAMMING)


class Batch(NamedTuple):
    """n examples: pictures uint8 (n, S, S, 3), the subjects' alpha uint8 (n, S, S), captions, and lists of n:
    index (into the emoji), concept, style, color (stated, or None), background, language."""

    images: np.ndarray
    masks: np.ndarray
    captions: list[str]
    attributes: dict[str, list]


class Composer:
    """Draws captioned examples from `emoji`, never a held-out (colour, concept) pair. Built in notebook 01.

    size: of the pictures (None: the emoji's own). p_color: chance to recolour where that comes out right. p_background:
    chance of other than white. The subject takes min_scale..1 of the width. wording: p_omit, p_tags and natural of
    `caption`.
    Raises DataError for no emoji, an unknown language or size.
    """

    def __init__(
        self,
        emoji: Emoji,
        size: int | None = None,
        p_color: float = 0.5,
        p_background: float = 0.5,
        languages: tuple[str, ...] = LANGUAGES,
        min_scale: float = 0.75,
        **wording: float,
    ) -> None:
        if not len(emoji) or not languages or set(languages) - set(LANGUAGES):
            raise DataError(f"A Composer needs emoji (got {len(emoji)}), languages from {LANGUAGES} (got {languages}).")
        self.emoji, self.size, self.languages, self.min_scale = emoji, size or emoji.size, tuple(languages), min_scale
        self.p_color, self.p_background, self.wording = p_color, p_background, wording
        held = {tuple(pair) for pair in load_splits()["held_out_colors"]}
        self.colors = [[c for c in m["recolors"] if (c, m["concept"]) not in held] for m in emoji.meta]
        self.natural = [
            None if NAMES_COLOR.search(m["name_en"]) or (m["color"], m["concept"]) in held else m["color"]
            for m in emoji.meta
        ]  # "red apple" needs no second "red"
        self.scenes = load_scenes(self.size)

    def compose(self, n: int, seed: int) -> Batch:
        """n examples; the same seed gives the same bytes."""
        rng = np.random.default_rng(seed)
        images = np.empty((n, self.size, self.size, 3), dtype=np.uint8)
        masks, captions, rows = np.zeros(images.shape[:3], dtype=np.uint8), [], []
        for image, mask in zip(images, masks, strict=True):
            row, paint = self._choose(rng)
            meta = self.emoji.meta[row["index"]]
            self._draw(image, mask, row["index"], paint, row["background"], rng)
            captions.append(caption(meta, row["color"], row["background"], row["language"], rng, **self.wording))
            rows.append({"concept": meta["concept"], "style": meta["style"], **row})
        return Batch(images, masks, captions, {key: [row[key] for row in rows] for key in (rows[0] if rows else ())})

    def _choose(self, rng: np.random.Generator) -> tuple[dict, str | None]:
        """The attributes of one example, and the colour to paint it in (None: as it is)."""
        index = int(rng.integers(len(self.emoji)))
        colors = self.colors[index]
        paint = colors[rng.integers(len(colors))] if colors and rng.random() < self.p_color else None
        natural = self.natural[index] if rng.random() < 0.5 else None  # half: a caption need not speak of colour
        other = BACKGROUNDS[rng.integers(1, len(BACKGROUNDS))] if rng.random() < self.p_background else "white"
        language = self.languages[rng.integers(len(self.languages))]
        return {"index": index, "color": paint or natural, "background": other, "language": language}, paint

    def render(self, index: int, color: str | None = None, background: str = "white", seed: int = 0) -> np.ndarray:
        """The example asked for, uint8 (S, S, 3), held-out colours too; DataError if it cannot come out right."""
        meta = self.emoji.meta[index]
        if color is not None and color not in meta["recolors"]:
            raise DataError(
                f"A {color} {meta['concept']} ({meta['style']}) does not come out right: choose from "
                f"{', '.join(meta['recolors']) or 'no other colour'}."
            )
        if background not in BACKGROUNDS:
            raise DataError(f"Unknown background {background!r}: choose from {', '.join(BACKGROUNDS)}.")
        image = np.empty((self.size, self.size, 3), dtype=np.uint8)
        self._draw(image, np.empty_like(image[..., 0]), index, color, background, np.random.default_rng(seed))
        return image

    def _draw(
        self,
        image: np.ndarray,
        mask: np.ndarray,
        index: int,
        color: str | None,
        background: str,
        rng: np.random.Generator,
    ) -> None:
        """Fill one picture (S, S, 3), and where its subject is a mask (S, S), in place."""
        scenes = self.scenes.get(background)
        canvas = (
            Image.new("RGB", (self.size, self.size), PLAIN[background][0])
            if scenes is None
            else Image.fromarray(scenes[rng.integers(len(scenes))])
        )
        rgba = self.emoji.rgba[index] if color is None else recolor(self.emoji.rgba[index], color)
        side = round(self.size * rng.uniform(self.min_scale, 1))
        left, top = rng.integers(0, self.size - side + 1, 2).tolist()
        subject = resized(rgba, side)
        canvas.paste(subject, (left, top), subject)  # its alpha says how much of the background shows
        image[:], mask[top : top + side, left : left + side] = np.asarray(canvas), np.asarray(subject)[..., 3]
