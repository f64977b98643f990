"""Learn the tokenizer of notebook 04 from captions of all pictures: `python data/build/vocabulary.py`, after build.py.

The shipped tokenizer is frozen, for the shipped models read it: it was learnt when the data had its first four styles,
and styles that came later do not change it. Needs the course installed; the same captions and the same version of
`tokenizers` give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from sums import DATA, write_sums

from course_utils.data import STYLES, load_emoji
from course_utils.datasets.compose import BACKGROUNDS, COLORS, LANGUAGES, caption
from course_utils.text_encoder.tokenizer import train_tokenizer

FIRST_STYLES = (*STYLES[:3], STYLES[-1])
ROUNDS = 6  # captions a picture and language: enough that every tag of a concept turns up


def captions() -> Iterator[str]:
    """Captions as training sees them, of every picture of the first four styles, colours and backgrounds by lot."""
    rng, metas = np.random.default_rng(0), load_emoji(styles=FIRST_STYLES, split="all").meta
    for _ in range(ROUNDS):
        for meta in metas:
            for language in LANGUAGES:
                color = str(rng.choice(list(COLORS))) if rng.random() < 0.5 else None
                background = str(rng.choice(BACKGROUNDS))
                yield caption(meta, color, background, language, rng, p_omit=0.1, p_tags=0.5, natural=0)


if __name__ == "__main__":
    train_tokenizer(captions()).save(str(DATA / "tokenizer.json"))
    write_sums()
