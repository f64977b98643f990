"""The command `course`: doctor, list, train, draw, app, vary, search, evaluate, export, lab, test.

All that can be typed stands here; what a command does, in the module of `app/` that has its name, or in `commands.py`.
Everything heavy is imported inside the commands, so that `course --help` answers at once. What a user can get wrong
ends in one sentence on stderr and exit status 2, never in a traceback.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from pathlib import Path
from typing import NoReturn

from course_utils.app import commands, export, generate, inputs, lab, search, train, vary
from course_utils.app.generate import PROMPTED, SYSTEMS
from course_utils.errors import InputError, printable

PASSED_ON = ("lab", "test")  # what these do not know goes to JupyterLab and pytest


class Parser(argparse.ArgumentParser):
    """argparse, with its complaints in the course's own form."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line and leave with status 2."""
        self.exit(2, f"course: {printable(message)} (see `{self.prog} --help`)\n")


def parser() -> Parser:
    """All commands and their options."""
    top = Parser(prog="course", description="Diffusion models from scratch: check, train, draw, evaluate, export.")
    add = top.add_subparsers(dest="command", metavar="COMMAND", required=True).add_parser
    add("doctor", help="is this machine ready? data, checkpoints, packages, device")
    add("list", help="the recipes and the checkpoints they made")
    training = add("train", help="train a checkpoint within a budget of minutes")
    train_options(training)
    draw = add(
        "draw",
        help="draw pictures with a checkpoint",
        epilog="systems: " + "; ".join(f"{name}: {system.summary}" for name, system in SYSTEMS.items()),
    )
    draw_options(draw)
    app_options(add("app", help="open a page to draw on, in the browser"))
    evaluate = add("evaluate", help="let the evaluator judge what a system draws for the fixed prompts")
    evaluate.add_argument(
        "system",
        nargs="?",
        metavar="SYSTEM",
        help=f"what reads prompts; evaluator or vae: on real pictures (default: {PROMPTED})",
    )
    evaluate.add_argument("--all", action="store_true", help="all systems side by side: quality, and cost by module")
    evaluate.add_argument("--prompts", type=int, help="1 to 400 a language (default: 100, or 200); --all: in both")
    evaluate.add_argument("--write", action="store_true", help="keep the shares in the checkpoint's card")
    export_options(add("export", help="write a system as a folder that diffusers opens"))
    search_options(add("search", help="find the pictures that fit a prompt, by CLIP"))
    variations = add("vary", help="draw a picture of yours anew, by way of its CLIP vector")
    vary_options(variations)
    for command in (draw, evaluate, variations):
        sampling_options(command)
    for command in (training, draw, evaluate, variations):
        command.add_argument("--seed", type=int, default=0, help="the same seed gives the same result (default: 0)")
        command.add_argument("--device", help="cuda, mps or cpu (default: the best there is)")
    add("lab", help="open the course in JupyterLab; further arguments are JupyterLab's own")
    testing = add("test", help="check style, library and notebooks; or what further arguments, pytest's own, name")
    testing.add_argument("--style", action="store_true", help="the style alone")
    evaluate.set_defaults(seed=None)  # what is always measured in the same way tells what was asked from what was not
    return top


def train_options(command: Parser) -> None:
    """Add what training can be told."""
    add = command.add_argument
    add("name", nargs="?", metavar="NAME", help="a recipe, see `course list`")
    add("--all", action="store_true", help="share the minutes among all recipes, in the order of their needs")
    add("--minutes", type=float, required=True, help="wall-clock budget, resumed parts included")
    begin = command.add_mutually_exclusive_group()
    begin.add_argument("--resume", action="store_true", help="go on where the run in --run-dir stopped")
    begin.add_argument("--restart", action="store_true", help="throw away an unfinished run in --run-dir")
    add("--continue", dest="from_shipped", action="store_true", help="begin with the weights of the checkpoint")
    add("--run-dir", type=Path, default=Path("runs"), help="where the run is saved (default: runs)")
    add("--replace", action="store_true", help="replace the checkpoint that is there; without it, it stays")


def draw_options(draw: Parser) -> None:
    """Add what drawing can be told."""
    draw.add_argument("prompt", nargs="?", metavar="PROMPT", help="what to draw, in quotes, in English or Chinese")
    draw.add_argument("--system", help=f"{' or '.join(SYSTEMS)} (default: {PROMPTED} if there is a prompt)")
    draw.add_argument("--negative", metavar="PROMPT", help="what to stay away from, in quotes")
    draw.add_argument(
        "--lora",
        metavar="LORA",
        action="append",
        help="xp7, style-3d, or a LoRA's .safetensors file or folder (./xp7 for one named so); said twice: their sum",
    )
    draw.add_argument(
        "--lora-strength", type=float, default=1.0, metavar="S", help="0 to 2: how strongly (default: 1, as trained)"
    )
    draw.add_argument("--prior", metavar="PRIOR", help="of dalle2: diffusion, ar or none (default: diffusion)")
    draw.add_argument("--size", type=int, help="pixels a side: the system's own (default), or 256, enlarged by Imagen")
    draw.add_argument("--count", type=int, default=16, help="1 to 64 pictures (default: 16)")
    draw.add_argument("--out", default="pictures.png", help="the file to write (default: pictures.png)")


def app_options(app: Parser) -> None:
    """Add what the page can be told."""
    app.add_argument("--port", type=int, help="1024 to 65535 (default: 7860, or the next that is free)")
    app.add_argument("--no-browser", action="store_true", help="open no browser, only print the address")
    app.add_argument("--from", dest="folder", help="folder of the checkpoints (default: the shipped ones)")
    app.add_argument("--device", help="cuda, mps or cpu (default: the best there is)")
    app.add_argument("--space", metavar="FOLDER", help="open nothing: write the page as a folder to upload as a Space")


def export_options(command: Parser) -> None:
    """Add what an export can be told."""
    add = command.add_argument
    add("system", metavar="SYSTEM", help=f"one of {', '.join(export.EXPORTED)}")
    add("folder", metavar="FOLDER", help="a new folder, an empty one, or an earlier export")
    add("--from", dest="checkpoints", help="folder of the checkpoints (default: the shipped ones)")
    add("--push", metavar="ME/NAME", help="upload it to this repository of the Hugging Face hub, made if need be")
    add("--private", action="store_true", help="with --push: a new repository is for your own eyes")


def search_options(command: Parser) -> None:
    """Add what a search can be told."""
    add = command.add_argument
    add("prompt", metavar="PROMPT", help="what to look for, in quotes, in English or Chinese")
    add("--count", type=int, default=search.COUNT, help=f"1 to 64 pictures (default: {search.COUNT})")
    add("--out", default="found.png", help="the file to write (default: found.png)")
    add("--from", dest="folder", help="folder of the checkpoint (default: the shipped one)")
    add("--device", help="cuda, mps or cpu (default: the best there is)")


def vary_options(command: Parser) -> None:
    """Add what a variation can be told."""
    add = command.add_argument
    add("picture", metavar="PICTURE", help="a JPEG, PNG or WebP file")
    add("--eta", type=float, default=1.0, help="0 to 1: how much fresh noise, 0 returns the picture (default: 1)")
    add("--count", type=int, default=vary.COUNT, help=f"1 to 64 variations (default: {vary.COUNT})")
    add("--out", default="variations.png", help="the file to write (default: variations.png)")


def sampling_options(command: Parser) -> None:
    """Add what every command that draws can be told."""
    command.add_argument("--steps", type=int, help="1 to 1000 (default: the system's own)")
    command.add_argument(
        "--guidance", type=float, help="0 to 20: how closely to follow the prompt, 1 = off (default: the system's own)"
    )
    command.add_argument("--from", dest="folder", help="folder of the checkpoint (default: the shipped ones)")


def not_understood(args: argparse.Namespace, left: list[str]) -> NoReturn:
    """Words or options that are left over: those of a prompt lack its quotes."""
    if args.command in ("draw", "search") and args.prompt and not any(word.startswith("-") for word in left):
        words = " ".join([args.prompt, *left])
        raise InputError(f'a prompt of several words stands in quotes: course {args.command} "{words}"')
    parser().error(f"unrecognized arguments: {' '.join(left)}")


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit status.

    0 done, 1 the doctor misses something, 2 wrong input, 130 Ctrl-C, 141 nobody reads what it prints any more.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # what its encoding lacks is shown as \\u732b: no reason to fail
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            return run(argv)
        finally:
            if sys.stdout:
                sys.stdout.flush()
    except BrokenPipeError:  # as in `course list | head -1`: that is no error, so none is shown
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return 141


def run(argv: list[str] | None) -> int:
    """Run a command and return its exit status; what a user can put right is told in one sentence."""
    actions = {
        "doctor": commands.doctor,
        "list": commands.list_all,
        "train": train.train,
        "draw": generate.draw,
        "app": commands.app,
        "evaluate": commands.evaluate,
        "export": export.export,
        "search": search.search,
        "lab": lab.lab,
        "test": lab.test,
        "vary": vary.vary,
    }
    try:
        args, left = parser().parse_known_args(argv)
        if args.command in PASSED_ON:
            args.further = left
        elif left:
            not_understood(args, left)
        return actions[args.command](args)
    except KeyboardInterrupt as stop:
        print(f"\ncourse: {stop or 'stopped'}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise
    except ImportError as error:
        print(f"course: {error}: `make setup` installs what the course needs", file=sys.stderr)
    except Exception as error:
        sentence = inputs.explain(error)
        if sentence is None:
            raise
        print(f"course: {printable(sentence)}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
