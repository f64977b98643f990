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


def make_splits(rows: list[dict], styles: tuple[str, ...]) -> dict:
    """Lists of (concept, style) test pairs, of (colour, concept) pairs never shown, of styles for fine-tuning only.

    rows: concept, color, recolors of every picture. Each concept gives up at most one style, so the models know it.
    Raises SystemExit if a held-out pair cannot be drawn, or is the natural colour of a picture.
    """
    concepts = sorted({row["concept"] for row in rows}, key=order)
    chosen = concepts[:round(TEST_SHARE * len(concepts)) * len(styles)]
    pairs = [[concept, styles[rank % len(styles)]] for rank, concept in enumerate(chosen)]
    colors = [[color, concept] for color, names in HELD_OUT_COLORS.items() for concept in names]
    for color, concept in colors:
        pictures = [row for row in rows if row["concept"] == concept]
        if not any(color in p["recolors"] for p in pictures) or any(p["color"] == color for p in pictures):
            raise SystemExit(f"{color} {concept} cannot be held out: not drawable, or its natural colour.")
    return {"test_pairs": sorted(pairs), "held_out_colors": colors, "held_out_styles": ["3d"]}
