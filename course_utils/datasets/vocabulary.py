"""The words a system knows: those of the captions it was trained on. What it was never shown is named, with what it was
shown that is nearest: dragon -> unicorn."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection
from difflib import SequenceMatcher, get_close_matches
from functools import lru_cache

from course_utils.data import load_names
from course_utils.datasets.captions import WORDS_ZH
from course_utils.datasets.concepts import SHOWN, concepts
from course_utils.datasets.nouns import other_words, split_noun, subject_name
from course_utils.datasets.plain import IS_HAN, PLACE_WORDS, STYLE_WORDS, Reading, cover, key, phrases, read

LORA_WORDS = {  # shipped LoRA -> what it taught beyond the words of our captions, its trigger first
    "xp7": ("xp7",),
    "style-3d": (
        *("little creature", "小精灵", "3d style", "3d风格", "cartoon", "卡通"),
        *("cute", "pretty", "lovely", "可爱", "漂亮", "美丽"),
    ),
}
TRIGGERS = {"xp7": ("xp7",), "style-3d": LORA_WORDS["style-3d"][:4]}
CALLS = {"xp7": "XP7 car", "style-3d": "little creature, cartoon"}  # how a prompt calls it
COLOR = re.compile(f"^(?:(?:{'|'.join(WORDS_ZH)}) |(?:{'|'.join(WORDS_ZH.values())})的?)(?=.)")
CLOSE, CLOSER = 0.8, 0.85  # of difflib's measure: "buterfly" for "butterfly", not "paris" for "pairs"
SHORTEST = 4  # letters: shorter words are all near one another
NAMED, WORD_LENGTH = 5, 24  # words that a note names, and their characters


@lru_cache(maxsize=1)
def _tags() -> dict[str, frozenset[str]]:
    """Concept -> its tags and its place in Unicode's order of things."""
    return {
        row["concept"]: frozenset([key(tag) for tag in (*row["tags_en"], *row["tags_zh"])])
        | {"subgroup " + row["subgroup"], "group " + row["group"]}
        for row in load_names()
    }


@lru_cache(maxsize=1)
def _weights() -> dict[str, float]:
    """Tag -> how much it tells: rare ones more."""
    counts = Counter(tag for tags in _tags().values() for tag in tags)
    kinds = {"subgroup": 2.0, "group": 1.5}  # what kind of thing it is tells more than one tag of many
    return {tag: kinds.get(tag.split()[0], 1.0) * math.log(len(_tags()) / count) for tag, count in counts.items()}


def _meant(phrase: str) -> frozenset[str]:
    """The concepts that a phrase names: by their name or its head, or by another noun that stands for it."""
    heads, other = set(), set()
    for row in load_names():
        names = {key(row["name_en"]), key(row["name_zh"]), key(subject_name(row, "zh"))}
        if phrase in names:
            return frozenset([row["concept"]])
        if phrase == split_noun(key(row["name_en"]))[0].split()[-1]:
            heads.add(row["concept"])
        tagged = row["concept"] in phrases().get(phrase, ())
        if tagged and phrase in map(key, other_words(row, "en") + other_words(row, "zh")):
            other.add(row["concept"])
    return frozenset(heads or other)


def _may_be(word: str, misspelt: str) -> bool:
    """Is it worth while to compare two words letter by letter? It takes its time."""
    return abs(len(word) - len(misspelt)) <= 2 and (word[:1] == misspelt[:1] or word[1:2] == misspelt[1:2])


class Vocabulary:
    """What one system was shown, and which words of a prompt that leaves out."""

    def __init__(self, system: str):
        own, self.styles = concepts(system), SHOWN[system].styles
        self.system, self.sentences = system, SHOWN[system].sentences
        self.concepts = frozenset(_tags()) if own is None else own
        said = {key(form.format(style)) for style in self.styles for form in ("{} style", "{}风格")}
        always = {*WORDS_ZH, *WORDS_ZH.values(), *PLACE_WORDS}
        self.phrases = frozenset({phrase for phrase, of in phrases().items() if of & self.concepts} | always | said)
        self.words = frozenset(word for phrase in self.phrases for word in phrase.split()) - STYLE_WORDS
        self.names = {row["concept"]: row for row in load_names() if row["concept"] in self.concepts}

    def read(self, text: str) -> Reading:
        """The prompt as the system reads it best, and its phrases."""
        return read(text, self.sentences, self.phrases)

    def unknown(self, reading: Reading, taught: Collection[str] = ()) -> list[str]:
        """The phrases of a prompt that training never showed; taught: what else is known, of a LoRA."""
        known, found = self.phrases | set(taught), []
        for part in reading.parts:
            words = tuple(" ".join(part).split())
            if " ".join(words) not in phrases() and cover(words, known) is not None:
                continue
            found += [
                p
                for p in part
                if not (p in known or COLOR.sub("", p) in known)
                and (p in phrases() or not set(p.split()) <= self.words)
            ]
        return [word for word in dict.fromkeys(found) if any(c.isalnum() for c in word)]

    def nearest(self, phrase: str, n: int = 2) -> list[str]:
        """Up to n names of what the system knows that come nearest to a phrase: by tags, else by spelling."""
        if phrase in STYLE_WORDS:
            ends = "风格" if "风格" in phrase else " style"
            return [style + ends for style in self.styles]
        of, weights = _meant(phrase), _weights()
        if not of:
            return [] if phrase in phrases() else self._spelled_like(phrase, n)
        tags = Counter(tag for concept in of for tag in _tags()[concept] | {key(concept)})
        scores = {
            concept: sum(weights[tag] * tags[tag] / len(of) for tag in _tags()[concept] if tag in tags)
            for concept in self.concepts
        }
        best = sorted(scores, key=lambda concept: (-scores[concept], concept))[:n]
        language, least = "zh" if IS_HAN.search(phrase) else "en", max(3.0, 0.6 * scores[best[0]])
        return [subject_name(self.names[concept], language) for concept in best if scores[concept] >= least]

    def _spelled_like(self, phrase: str, n: int) -> list[str]:
        """What the system knows that is written nearly so, or is nearest to what of our words is written so."""
        if IS_HAN.search(phrase):
            alike = [name for name in {row["name_zh"] for row in self.names.values()} if set(name) & set(phrase)]
            return sorted(alike, key=lambda name: (-SequenceMatcher(None, name, phrase).ratio(), name))[:n]
        if not SHORTEST <= len(phrase) <= WORD_LENGTH:
            return []
        alike = sorted(word for word in phrases() if _may_be(word, phrase))
        close = get_close_matches(phrase, [word for word in alike if word in self.phrases], 1, CLOSE)
        meant = close or get_close_matches(phrase, alike, 1, CLOSER)
        return close or (self.nearest(meant[0], n) if meant else [])


@lru_cache(maxsize=8)
def vocabulary(system: str) -> Vocabulary:
    """The vocabulary of a system that reads prompts."""
    return Vocabulary(system)


def quoted(words: Collection[str], length: int = WORD_LENGTH) -> str:
    """The first few words, in quotes, cut short after `length` characters."""
    short = [word if len(word) <= length else word[:length] + "…" for word in words]
    more = f" and {len(short) - NAMED} more" if len(short) > NAMED else ""
    return ", ".join(f'"{word}"' for word in short[:NAMED]) + more


def word_note(system: str, texts: Collection[str], loras: Collection[str] = ()) -> str | None:
    """One sentence that names the words of some prompts that a system was never shown, and the nearest it knows.

    loras: the LoRAs at work, those of the course by name. None when the system knows all words.
    """
    known, own = vocabulary(system), set(loras) <= set(LORA_WORDS)
    taught = [word for name in loras for word in LORA_WORDS.get(name, ())]
    missing = list(dict.fromkeys(word for text in texts for word in known.unknown(known.read(text), taught)))
    notes = []
    for name, words in LORA_WORDS.items():
        called = [] if name in loras or not own else [word for word in TRIGGERS[name] if _calls(word, texts, missing)]
        if called:
            taught = {part for word in words for part in (word, *word.split())}
            missing = [word for word in missing if word not in taught]
            notes.append(_lora_note(system, name, _as_written(called, texts)))
    if missing:
        written = dict(zip(missing, _as_written(missing, texts)))
        unless = "" if own else ", unless your LoRA was"
        notes.append(f"{system} was never shown {quoted(written.values())}{unless}; {_near(known, written)}")
    return "; ".join(notes) or None


def _calls(trigger: str, texts: Collection[str], missing: Collection[str]) -> bool:
    """Is a trigger in a prompt, and not merely made of words that the system knows?"""
    alone = re.compile(rf"(?<![a-z0-9]){trigger}(?![a-z0-9])")
    return bool({trigger, *trigger.split()} & set(missing)) and any(alone.search(key(text)) for text in texts)


def _as_written(words: Collection[str], texts: Collection[str]) -> list[str]:
    """The words with the capitals that they have in the prompts."""
    return [next((m[0] for t in texts if (m := re.search(re.escape(word), t, re.I))), word) for word in words]


def _lora_note(system: str, name: str, called: list[str]) -> str:
    """What to add so that a trigger means something."""
    ask = f'add --lora {name} (in Python: lora="{name}")'
    ask += "" if system == "stable-diffusion" else " and draw with stable-diffusion"
    other = "" if any(word.lower() in CALLS[name].lower() for word in called) else f' and write "{CALLS[name]}"'
    return f"{quoted(called)} is what the LoRA {name} teaches, and it is not at work: {ask}{other}"


def _near(known: Vocabulary, written: dict[str, str]) -> str:
    """The second half of the sentence: what comes nearest to each word, as it is written."""
    near = {shown: known.nearest(word) for word, shown in list(written.items())[:NAMED]}
    near = {shown: ", ".join(names) for shown, names in near.items() if names}
    if not near:
        return f"it knows {len(known.concepts)} things, such as butterfly, car and cat: the picture is a guess"
    if len(written) == 1:
        return f"the nearest it knows: {next(iter(near.values()))}"
    return "the nearest it knows: " + "; ".join(f"{names} for {quoted([shown])}" for shown, names in near.items())
