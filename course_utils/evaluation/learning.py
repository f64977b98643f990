"""What is measured of a network while it learns, for the learning curve in its card."""

from __future__ import annotations

from collections.abc import Callable

import torch

from course_utils.data import to_tensor
from course_utils.evaluation.report_clip import PAIRS, full_captions, held_out_examples, recall, zero_shot
from course_utils.systems.clip import CLIP, embed_images, embed_texts


def watch_clip(clip: CLIP) -> dict[str, float]:
    """Return how CLIP names PAIRS held-out pictures and finds their captions, in English."""
    pictures, composer = held_out_examples(PAIRS)
    image_embed = embed_images(clip, to_tensor(pictures.images))
    captions = embed_texts(clip, full_captions(pictures, composer, "en"))
    named = zero_shot(clip, image_embed, pictures.attributes["concept"], "en")
    return {key: float(share) for key, share in named.items()} | {
        "R@1": float(recall(image_embed, captions, torch.arange(PAIRS)))
    }


WATCHES: dict[str, Callable] = {"clip": watch_clip}  # checkpoint -> network in training to figures: seconds, no more
