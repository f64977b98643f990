"""Which traditional characters are ours in simplified ones: `python data/build/traditional.py`, after build.py.

From OpenCC's TSCharacters.txt (Apache-2.0), as opencc-python-reimplemented 0.1.7 carries it; only pairs whose
simplified side stands in a caption of ours, and whose traditional side does not.
"""

from __future__ import annotations

from pathlib import Path

from opencc import opencc

from course_utils.data import load_emoji
from course_utils.datasets import captions, nouns

OUT = Path(__file__).resolve().parents[2] / "course_utils" / "datasets" / "traditional.txt"
WORDS = "照片画图张幅副个请给我来生成绘制的和与在"  # of prompts, though not of captions
LINE = 50  # pairs a line
HEAD = """\
# Pairs of a traditional character and the simplified one of our captions; made by data/build/traditional.py.
# From OpenCC, https://github.com/BYVoid/OpenCC, data/dictionary/TSCharacters.txt. Apache License 2.0.
"""


def characters() -> set[str]:
    """Every Chinese character of our captions."""
    rows = load_emoji(16, split="all").meta
    words = [word for row in rows for word in (row["name_zh"], *row["tags_zh"])]
    words += [*captions.WORDS_ZH.values(), *captions.SCENES.values(), *captions.SENTENCES["zh"], WORDS, "风格背景表情"]
    words += [plain for _, plain in captions.PLAIN.values()] + [place for _, place in captions.PLACES.values()]
    words += [word for measure, ends in nouns.MEASURES.items() for word in (measure, ends)]
    return {character for word in words for character in word}


def pairs() -> list[str]:
    """ "貓猫", "龍龙", …, sorted."""
    table, ours = Path(opencc.__file__).parent / "dictionary" / "TSCharacters.txt", characters()
    rows = (line.split("\t") for line in table.read_text(encoding="utf-8").splitlines())
    first = ((traditional, simplified.split()[0]) for traditional, simplified in rows)
    return sorted(a + b for a, b in first if len(a) == len(b) == 1 and b in ours and a not in ours)


if __name__ == "__main__":
    found = pairs()
    lines = ["".join(found[i : i + LINE]) for i in range(0, len(found), LINE)]
    OUT.write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")
