"""What each system that reads prompts was shown: which things, in which styles, called by which forms of captions."""

from __future__ import annotations

from dataclasses import dataclass

from course_utils.data import FIRST_STYLES, FLAT_STYLES, load_splits

# fmt: off
TEXT_PIXEL = (
    "cat face", "rabbit face", "panda", "frog", "penguin", "elephant", "red apple", "grapes", "watermelon", "carrot",
    "pizza", "hamburger", "birthday cake", "sunflower", "mushroom", "automobile", "rocket", "airplane", "sailboat",
    "house", "soccer ball", "guitar", "red heart", "snowman", "robot",
)
STABLE_DIFFUSION = (
    *TEXT_PIXEL, "dog", "cat", "horse", "cow face", "tiger face", "fox", "bear", "koala", "monkey face", "giraffe",
    "camel", "duck", "parrot", "snail", "honeybee", "lady beetle", "tropical fish", "shark", "unicorn", "hedgehog",
    "peach", "pineapple", "cherries", "ice cream", "doughnut", "cupcake", "french fries", "cheese wedge",
    "hot beverage", "tulip", "palm tree", "deciduous tree", "bus", "taxi", "sport utility vehicle", "police car",
    "delivery truck", "bicycle", "helicopter", "locomotive", "light bulb", "key", "camera", "television",
    "closed book", "alarm clock", "candle", "wrapped gift", "basketball", "trumpet", "top hat", "sunglasses",
    "t-shirt", "running shoe", "smiling face with sunglasses", "ghost", "alien", "jack-o-lantern", "sun", "rainbow",
    "fire", "snowflake", "castle", "tent",
)
# fmt: on


@dataclass(frozen=True)
class Shown:
    """concepts: those of a system, with those of the composition test; None: all; sentences: were captions sentences
    too, "a panda in the snow", or only lists, "panda, snow"?"""

    concepts: tuple[str, ...] | None
    styles: tuple[str, ...] = FIRST_STYLES
    sentences: bool = False


SHOWN = {
    "text-pixel": Shown(TEXT_PIXEL),
    "stable-diffusion": Shown(STABLE_DIFFUSION),
    "stable-diffusion-clip": Shown(None, FLAT_STYLES, sentences=True),
    "dalle2": Shown(STABLE_DIFFUSION, FLAT_STYLES, sentences=True),
    "imagen": Shown(None, FLAT_STYLES, sentences=True),
}


def concepts(system: str) -> frozenset[str] | None:
    """The concepts that training showed a system (None: all): its own, and those of the composition test."""
    own = SHOWN[system].concepts
    return None if own is None else frozenset(own) | {concept for _, concept in load_splits()["held_out_colors"]}
