"""How a system reads prompts: brought to the words it was shown, with one sentence on what it was not.

"a photo of two dragons" ──► plain ──► "two dragon" ──► text encoder
                         └─► note ──► "stable-diffusion was never shown …"
"""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from course_utils.data import tokenizer_file
from course_utils.datasets.vocabulary import quoted, vocabulary, word_note
from course_utils.errors import PromptWarning, prompt_text, utf8
from course_utils.text_encoder.tokenizer import MAX_TOKENS, cut_off, open_tokenizer

ILLEGIBLE = (
    "the text encoder has learnt English and Chinese only, and finds no word of either in the prompt: the picture is a "
    "guess"
)
MARKS = 2  # tokens of a text that are no words: its start and its end


@dataclass(frozen=True)
class Reader:
    """Reads prompts for a system; loras: those at work, the course's own by name."""

    system: str
    loras: tuple[str, ...] = ()

    def plain(self, text: str) -> str:
        """A prompt as the system reads it best: see `datasets.plain.plain_prompt`."""
        return vocabulary(self.system).read(utf8(text)).text

    def note(self, prompts: Sequence[str]) -> str | None:
        """One sentence on what of some prompts the system was never shown, or cannot read for length; else None."""
        texts = list(dict.fromkeys(utf8(text) for text in prompts if text))
        legible = [text for text in texts if _is_legible(text)]
        notes = [ILLEGIBLE] if len(legible) < len(texts) else []
        notes.append(word_note(self.system, legible, self.loras))
        cut = [rest for text in texts if (rest := cut_off(open_tokenizer(tokenizer_file()), self.plain(text)))]
        if cut:
            notes.append(f"a prompt has room for {MAX_TOKENS - MARKS} tokens, so the end is cut off: {quoted(cut, 60)}")
        return "; ".join(filter(None, notes)) or None


def _is_legible(text: str) -> bool:
    """Is there a letter of one of the two languages in a text?"""
    letters = (unicodedata.name(c, "") for c in text if c.isalpha())
    return any(name.startswith(("LATIN", "CJK", "FULLWIDTH LATIN")) for name in letters)


def read_prompt(system: str, prompt: str, loras: tuple[str, ...] = ()) -> str:
    """A prompt as a system reads it best; a PromptWarning tells what it was never shown. InputError for no text."""
    reader, text = Reader(system, loras), prompt_text(prompt)
    if note := reader.note([text]):
        warnings.warn(note, PromptWarning, stacklevel=2)
    return reader.plain(text)
