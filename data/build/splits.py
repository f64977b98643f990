"""What the models never see: test pictures, some colours of some concepts, one style. Fixed by hashes and a list."""

from __future__ import annotations

import hashlib

TEST_SHARE = 0.10

# The test of composition asks for exactly these: each word and each concept is known, the pair is new.
HELD_OUT_COLORS = {
    "pink": ["butterfly", "grinning face", "crocodile", "owl", "gem stone", "evergreen tree", "turtle"],
    "blue": ["banana", "rose", "tomato", "crab", "strawberry", "lion", "fire engine", "pig"],
    "green": ["pig", "cherry blossom", "flamingo", "balloon", "teddy bear", "octopus", "dog face", "star"],
    "purple": ["lemon", "bell", "pear", "baby chick", "dolphin", "crown", "banana"],
    "red": ["dolphin", "cactus", "jeans", "turtle", "pear", "owl"],
    "yellow": ["rose", "crab", "fish", "dress", "whale", "umbrella", "handbag"],
    "orange": ["dolphin", "cactus", "eggplant", "droplet", "gem stone", "four leaf clover", "pig face"],
}


def order(concept: str) -> str:
    """A fixed shuffle: a sort key that depends on the name alone."""
    return hashlib.sha256(f"test:{concept}".encode()).hexdigest()


def first_pairs(concepts: list[str], styles: tuple[str, ...]) -> dict[str, str]:
    """Concept -> its test style, for styles that have every concept: the first in the fixed shuffle, in turn."""
    chosen = concepts[: round(TEST_SHARE * len(concepts)) * len(styles)]
    return {concept: styles[rank % len(styles)] for rank, concept in enumerate(chosen)}


def further_pairs(concepts: list[str], have: dict[str, set[str]], fixed: dict[str, str]) -> dict[str, str]:
    """Concept -> its test style, for styles that have some concepts: a tenth of each.

    have: style -> its concepts. fixed: pairs that must be among them.
    """
    pairs = dict(fixed)
    left = {
        style: round(TEST_SHARE * len(mine)) - sum(style == used for used in fixed.values())
        for style, mine in have.items()
    }
    for concept in concepts:
        open_styles = [style for style, mine in have.items() if concept in mine and left[style] > 0]
        if concept not in pairs and open_styles:
            style = max(open_styles, key=lambda style: left[style] / len(have[style]))
            pairs[concept] = style
            left[style] -= 1
    return pairs


def find_leaks(rows: list[dict]) -> list[dict]:
    """The pictures whose natural colour is held out for their concept."""
    return [row for row in rows if row["concept"] in HELD_OUT_COLORS.get(row["color"], ())]


def check_drawable(rows: list[dict]) -> None:
    """SystemExit if no picture of a concept can be repainted in the colour that is held out for it."""
    for color, names in HELD_OUT_COLORS.items():
        for concept in names:
            if not any(row["concept"] == concept and color in row["recolors"] for row in rows):
                raise SystemExit(f"{color} {concept} cannot be held out: not drawable.")


def make_splits(rows: list[dict], complete: tuple[str, ...], styles: tuple[str, ...]) -> tuple[dict, set[str]]:
    """What training never shows, as in splits.json, and the ids of pictures that the data set must leave out.

    rows: id, concept, style, color, recolors of every picture; complete: the styles that have every concept. Each
    concept gives up at most one style, so the models know it. A picture that has a held-out colour by nature becomes
    its concept's test picture; it is left out if the concept has another one. SystemExit if a held-out pair cannot be
    drawn, or is natural in one of the complete styles.
    """
    check_drawable(rows)
    concepts = sorted({row["concept"] for row in rows}, key=order)
    pairs = first_pairs(concepts, complete)
    fixed, left_out = {}, set()
    for row in find_leaks(rows):
        if row["style"] in complete:
            raise SystemExit(f"{row['color']} {row['concept']} cannot be held out: natural in {row['style']}.")
        if row["concept"] in pairs or row["concept"] in fixed:
            left_out.add(row["id"])
        else:
            fixed[row["concept"]] = row["style"]
        print(
            f"{row['color']} {row['concept']}, {row['style']}:", "left out" if row["id"] in left_out else "test picture"
        )
    have = {
        style: {row["concept"] for row in rows if row["style"] == style and row["id"] not in left_out}
        for style in styles
        if style not in complete
    }
    pairs |= further_pairs([concept for concept in concepts if concept not in pairs], have, fixed)
    colors = [[color, concept] for color, names in HELD_OUT_COLORS.items() for concept in names]
    return {
        "test_pairs": sorted(map(list, pairs.items())),
        "held_out_colors": colors,
        "held_out_styles": ["3d"],
    }, left_out
