"""What a reader opens who follows a prompt from the command to the PNG: counted while a picture is drawn."""

import argparse
import inspect
import sys
from pathlib import Path

from course_utils import cli

LIBRARY = Path(cli.__file__).parent
PROMPT = "pink butterfly"
TEXT = {  # are handed the prompt as text; after these it is numbers
    *("cli", "app/generate", "systems/stage"),
    *("systems/reading", "datasets/vocabulary", "datasets/plain"),  # brought to the words the system was shown
    *("systems/stable_diffusion", "text_encoder/tokenizer"),
}
CHECKS = {"errors"}  # is handed it too: is it a text, and not too long?
NUMBERS = {  # what the networks are made of, and the walk from noise to the picture
    *("text_encoder/clip", "generator/latent_unet", "generator/unet", "decoder/vae", "layers"),
    *("generator/guidance", "generator/samplers", "generator/schedules", "generator/objectives"),
    "systems/text_pixel",  # whose text encoder it is
}
AROUND = {  # never see the prompt
    *("app/inputs", "systems/registry", "checkpoints", "data", "devices"),
    *("datasets/concepts", "datasets/nouns"),  # the words that it is compared with
}


def holds(value) -> bool:
    """Is this the prompt, or a list or a command's parsed arguments with it?"""
    value = getattr(value, "prompt", None) if isinstance(value, argparse.Namespace) else value
    return any(
        isinstance(one, str) and one == PROMPT for one in (value if isinstance(value, (list, tuple)) else [value])
    )


def files_on_the_way(work) -> tuple[set[str], set[str]]:
    """The library's files of which functions are called, and those of which one is handed the prompt."""
    called, handed = set(), set()

    def look(frame, event, arg):
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(str(LIBRARY)):
            return
        if not code.co_flags & inspect.CO_OPTIMIZED or code.co_name.startswith("<"):
            return  # the body of a module or class, and what is computed on import
        name = Path(code.co_filename).relative_to(LIBRARY).with_suffix("").as_posix()
        called.add(name)
        if any(holds(frame.f_locals.get(argument)) for argument in inspect.getargs(code).args):
            handed.add(name)

    sys.setprofile(look)
    try:
        assert work() == 0
    finally:
        sys.setprofile(None)
    return called, handed


def test_a_prompt_crosses_eight_files_as_text_and_few_more_as_numbers(tmp_path):
    out = tmp_path / "butterfly.png"
    arguments = ["draw", PROMPT, "--count", "1", "--steps", "1", "--device", "cpu", "--out", str(out)]
    called, handed = files_on_the_way(lambda: cli.main(arguments))
    assert out.is_file() and len(TEXT) == 8
    assert handed == TEXT | CHECKS, "is another file on the way a new idea, or one cut in pieces?"
    assert called <= TEXT | CHECKS | NUMBERS | AROUND, sorted(called - TEXT - CHECKS - NUMBERS - AROUND)
