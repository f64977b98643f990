"""What the smaller commands of `course` do: each takes the parsed arguments and returns an exit status."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec

from course_utils import errors
from course_utils.app import inputs
from course_utils.systems.registry import PROMPTED


def doctor(args: argparse.Namespace) -> int:
    """Print the doctor's table; status 1 when something is missing."""
    from course_utils.app.doctor import report

    result = report()
    shown = sys.stdout.isatty()
    signs = shown and (sys.stdout.encoding or "").lower().startswith("utf")
    print(result.text(signs=signs, color=shown and "NO_COLOR" not in os.environ))
    return 0 if result.ok else 1


def list_all(args: argparse.Namespace) -> int:
    """Print the recipes, and what is known of each checkpoint."""
    from course_utils import checkpoints
    from course_utils.recipes.catalog import recipes

    known = recipes()
    for name in dict.fromkeys([*known, *checkpoints.available()]):
        print(f"{name}\n    {known[name].summary if name in known else '(a checkpoint without a recipe)'}")
        if name not in checkpoints.available():
            print(f"    no checkpoint yet: course train {name} --minutes 60")
            continue
        size = (checkpoints.CHECKPOINT_DIR / f"{name}.safetensors").stat().st_size / 1e6
        print(*card_lines(checkpoints.card(name), size), sep="\n")
    return 0


def card_lines(card: dict, size: float) -> Iterator[str]:
    """What `course list` says of a checkpoint of so many megabytes."""
    from course_utils.evaluation import report

    yield (
        f"    {card.get('steps', 0):,} steps, {card.get('minutes', 0):g} minutes on "
        f"{card.get('hardware', 'unknown hardware')}, {size:.1f} MB"
    )
    for metric, value in card.get("metrics", {}).items():
        if isinstance(value, dict):  # shares right, and decibels
            value = ", ".join(f"{key} {text}" for key, text in report.figures(value).items())
        yield f"    {metric}: {value if isinstance(value, str) else f'{value:.4g}'}"


def app(args: argparse.Namespace) -> int:
    """Serve the page to draw on until Ctrl-C, or write it as a folder to upload."""
    if args.space is not None:
        from course_utils.app.space import write_space

        print(f"{write_space(args.space, args.folder)}: its README.md says how to upload it")
        return 0
    port = None if args.port is None else errors.integer("port", args.port, inputs.PORT)
    if not find_spec("gradio"):
        raise errors.InputError("the page is made with Gradio, which is not installed: `make setup` installs it")
    from course_utils.app import web

    web.launch(args.folder, args.device, server_port=port, inbrowser=not args.no_browser)
    return 0


def evaluate_all(args: argparse.Namespace) -> int:
    """Print what all systems at hand cost and how good their pictures are; --write keeps it in their cards."""
    for option in ("steps", "guidance", "seed"):
        if getattr(args, option) is not None:
            raise errors.InputError(f"--all measures every system as it draws by itself: leave --{option} out")
    from course_utils.evaluation.report_systems import LIMITS, PROMPTS, evaluate_systems

    n = errors.integer("prompts", PROMPTS if args.prompts is None else args.prompts, LIMITS)
    found = evaluate_systems(n, args.folder, args.device, tell=inputs.say, progress=inputs.show_progress())
    print(found.text())
    if args.write:
        found.keep(args.folder)
    return 0


def evaluate(args: argparse.Namespace) -> int:
    """Print what the evaluator says of a system's pictures, or of real ones; --write keeps it in the card."""
    if args.all and args.system is not None:
        raise errors.InputError(f"--all measures every system: leave {errors.printable(args.system)} out, or --all")
    if args.all:
        return evaluate_all(args)
    args.system = PROMPTED if args.system is None else args.system
    if args.prompts is not None:
        errors.integer("prompts", args.prompts, inputs.PROMPTS)
    from course_utils import checkpoints
    from course_utils.evaluation import report
    from course_utils.evaluation.report_clip import evaluate_clip
    from course_utils.evaluation.report_prior import evaluate_priors
    from course_utils.evaluation.report_prompts import evaluate_prompts
    from course_utils.evaluation.report_sr import evaluate_sr2
    from course_utils.evaluation.report_unclip import evaluate_feeds
    from course_utils.evaluation.report_vae import evaluate_vae, evaluate_vae_eight
    from course_utils.evaluation.report_xp7 import evaluate_subject
    from course_utils.systems.registry import SYSTEMS

    reading = [name for name, system in SYSTEMS.items() if "prompt" in system.inputs]
    alike = {
        "clip": lambda: evaluate_clip(folder=args.folder),
        "evaluator": lambda: report.evaluate_evaluator(folder=args.folder),
        "imagen-sr2": lambda: evaluate_sr2(folder=args.folder, progress=inputs.show_progress()),
        "prior-diffusion": lambda: evaluate_priors(folder=args.folder),
        "unclip-decoder": lambda: evaluate_feeds(folder=args.folder, progress=inputs.show_progress()),
        "vae": lambda: evaluate_vae(folder=args.folder),
        "vae-eight": lambda: evaluate_vae_eight(folder=args.folder),
        "xp7": lambda: evaluate_subject(args.folder, inputs.show_progress()),
    }
    all_asked = {"stable-diffusion-clip": evaluate_prompts}  # in every form, and what training never showed
    if errors.one_of("system to evaluate", args.system, [*reading, "style-3d", *alike]) in alike:
        for option in ("prompts", "steps", "guidance", "seed", "device"):
            if getattr(args, option) is not None:
                raise errors.InputError(f"{args.system} is always measured in the same way: leave --{option} out")
        rows = alike[args.system]()
    else:
        usual = 200 if args.system in all_asked else 100
        n = usual if args.prompts is None else args.prompts
        options = {key: getattr(args, key) for key in ("steps", "guidance", "device", "folder")}
        options |= {"seed": args.seed or 0, "progress": inputs.show_progress()}
        if args.system == "style-3d":
            rows = report.evaluate_style(n, **options)
        else:
            rows = all_asked.get(args.system, report.evaluate)(args.system, n, **options)
    print(report.table(rows))
    if args.write:
        kept = {row: report.for_card(figures) for row, figures in rows.items()}
        drawn_by = SYSTEMS.get(args.system)
        checkpoints.add_metrics((drawn_by.card if drawn_by else None) or args.system, kept, args.folder)
    return 0
