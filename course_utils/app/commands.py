"""What the commands of `course` do: each takes the parsed arguments and returns an exit status."""
from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from pathlib import Path

from course_utils.app import inputs

SHOW_EVERY = 0.5  # seconds: often enough to watch, too seldom to slow training down


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
        card = checkpoints.card(name)
        size = (checkpoints.CHECKPOINT_DIR / f"{name}.safetensors").stat().st_size / 1e6
        print(f"    {card.get('steps', 0):,} steps, {card.get('minutes', 0):g} minutes on "
              f"{card.get('hardware', 'unknown hardware')}, {size:.1f} MB")
        for metric, value in card.get("metrics", {}).items():
            many = value.items() if isinstance(value, dict) else ()  # shares right, and decibels
            value = ", ".join(f"{key} {x:.0%}" if x <= 1 else f"{key} {x:.1f}" for key, x in many) or f"{value:.4g}"
            print(f"    {metric}: {value}")
    return 0


def train(args: argparse.Namespace) -> int:
    """Train one recipe, or all of them one after the other."""
    inputs.number("minutes", args.minutes, inputs.MINUTES, above=True)
    inputs.whole_number("seed", args.seed, inputs.SEED)
    if args.all == (args.name is not None):
        raise inputs.InputError("name one recipe, or say --all (see `course list`)")
    from course_utils import devices
    from course_utils.recipes.catalog import find, recipes

    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let what a script starts with & ignore Ctrl-C
    device = devices.best_device(args.device)
    chosen = [find(args.name)] if args.name else sorted(recipes().values(), key=lambda recipe: -recipe.time_share)
    total = sum(recipe.time_share for recipe in chosen)
    for recipe in chosen:
        run(recipe, args.minutes * recipe.time_share / total, device, args)
    return 0


def run(recipe, minutes: float, device, args: argparse.Namespace) -> None:
    """Train one recipe with a progress bar, then save its checkpoint."""
    from tqdm import tqdm

    from course_utils.training import train as train_steps

    main_process = os.environ.get("RANK", "0") == "0"  # `accelerate launch` starts several
    where = run_file(args.run_dir, recipe.name)
    resume = args.resume and (where.exists() or not args.all)  # --all: some recipes may not have begun
    weights = shipped_weights(recipe) if args.warm else None
    steps = train_steps(recipe, minutes, args.seed, resume, args.run_dir, device, weights=weights)
    bar = tqdm(total=round(60 * minutes), desc=recipe.name, disable=not main_process,
               bar_format="{desc} {percentage:3.0f}%|{bar}| {postfix}")
    try:
        with only_one(where) if main_process else contextlib.nullcontext(), contextlib.closing(steps), bar:
            state = follow(steps, bar)
    except KeyboardInterrupt:
        again = f"course train {recipe.name} --minutes {minutes:g} --resume --run-dir {args.run_dir}"
        raise KeyboardInterrupt(f"stopped; {where} holds the run. Go on with: {again}" if where.exists()
                                else "stopped before anything was learnt") from None
    if state is None:
        raise inputs.InputError(f"the run of {recipe.name!r} has used its {minutes:g} minutes: give it more to go on")
    if main_process:
        keep(recipe, state, device, args)


def shipped_weights(recipe) -> dict:
    """The weights of a recipe's shipped checkpoint, to train on from there."""
    from course_utils import checkpoints

    if recipe.lora:
        from course_utils.finetune.lora import set_adapter
        from course_utils.interop.lora_files import open_lora

        network = recipe.model()
        set_adapter(network, *open_lora(recipe.name))
        return network.state_dict()
    return checkpoints.load(recipe.name, recipe.model()).state_dict()


@contextlib.contextmanager
def only_one(where: Path):
    """Refuse to train into a run that another process is training: the two would overwrite each other's states."""
    from filelock import FileLock, Timeout

    where.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(where.with_name(where.name + ".training.lock"), timeout=0)  # the system frees it after a kill
    try:
        lock.acquire()
    except Timeout:
        raise inputs.InputError(f"another `course train` is writing {where}: let it end or stop it, or name another "
                                "--run-dir") from None
    try:
        yield
    finally:
        lock.release()


def follow(steps, bar):
    """Show the states of a training run on a progress bar; return the last one (None: there was no step)."""
    state, shown = None, 0.0
    for state in steps:
        if state.seconds - shown >= SHOW_EVERY or state.seconds_left == 0:
            bar.update(min(state.seconds, bar.total) - bar.n)
            bar.set_postfix_str(f"loss {state.loss:.4f}, {state.pictures_per_s:.0f} pictures/s, "
                                f"{clock(state.seconds_left)} left")
            shown = state.seconds
    return state


def run_file(run_dir: Path, name: str) -> Path:
    """Where `training.train` saves a run."""
    return run_dir / f"{name}.run.safetensors"


def clock(seconds: float) -> str:
    """Seconds as minutes and seconds, such as 1:05."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def keep(recipe, state, device, args: argparse.Namespace) -> None:
    """Save a checkpoint with its card; one that was trained longer stays, and the new one goes beside the run."""
    from course_utils import checkpoints, devices

    card = {"recipe": recipe.name, "steps": state.step, "pictures": state.pictures, "seed": args.seed,
            "minutes": round(state.seconds / 60, 2), "hardware": devices.describe(device),
            "metrics": {"training_loss": round(state.loss, 5)}}
    older = checkpoints.card(recipe.name) if recipe.name in checkpoints.available() else {}
    if args.warm:  # the card tells of all the training that is in the weights
        card |= {key: round(older[key] + card[key], 2) for key in ("steps", "pictures", "minutes")}
    longer = older.get("steps", 0) > card["steps"] and not args.replace
    path = checkpoints.save(recipe.name, learned(recipe, state.ema), card, folder=args.run_dir if longer else None)
    print(f"{recipe.name}: {state.step:,} steps, {card['minutes']:g} minutes, loss {state.loss:.4f}: {path}")
    if longer:
        print(f"The shipped checkpoint has had {older['steps']:,} steps, so it stays (--replace overrules this). Draw "
              f"with yours: course draw --from {args.run_dir}")


def learned(recipe, network):
    """What a checkpoint holds: the network, or its LoRA under the names that diffusers reads (α is the rank)."""
    if not recipe.lora:
        return network
    from course_utils.finetune.lora import lora_state

    return {f"unet.{key}": value for key, value in lora_state(network).items()}


def draw(args: argparse.Namespace) -> int:
    """Draw pictures and write them to one file, as a grid when there are several."""
    path = inputs.picture_file(args.out)
    from course_utils.app import generate

    start = time.perf_counter()
    system = generate.choose(args.system, args.prompt)
    note = generate.prompt_note(system, args.prompt)
    pictures = generate.draw_pictures(system, args.prompt, args.steps, args.seed, args.count, args.guidance,
                                     args.negative, args.device, args.folder, args.lora, show_progress())
    from PIL import Image

    from course_utils.checkpoints import write_atomically

    sheet = Image.fromarray(generate.grid(pictures))
    write_atomically(path, lambda temporary: sheet.save(temporary, Image.registered_extensions()[path.suffix.lower()]))
    if note:
        print(f"course: note: {note}", file=sys.stderr)
    steps, seconds = args.steps or generate.SYSTEMS[system].steps, time.perf_counter() - start
    print(f"{args.count} picture{'s' * (args.count > 1)} of {pictures.shape[2]} × {pictures.shape[1]} by {system}, "
          f"{steps} steps, seed {args.seed}, in {seconds:.1f} s: {path}")
    return 0


def evaluate(args: argparse.Namespace) -> int:
    """Print what the evaluator says of a system's pictures, or of real ones; --write keeps it in the card."""
    inputs.whole_number("prompts", args.prompts, inputs.PROMPTS)
    from course_utils import checkpoints
    from course_utils.app import generate
    from course_utils.evaluation import report
    from course_utils.evaluation.report_xp7 import evaluate_subject

    reading = [name for name, system in generate.SYSTEMS.items() if "prompt" in system.reads]
    folder = args.folder
    others = {"evaluator": lambda: report.evaluate_evaluator(folder=folder),
              "vae": lambda: report.evaluate_vae(folder=folder),
              "style-3d": lambda: report.evaluate_style(args.prompts, folder, show_progress()),
              "xp7": lambda: evaluate_subject(folder, show_progress())}
    if inputs.one_of("system to evaluate", args.system, [*reading, *others]) in others:
        rows = others[args.system]()
    else:
        rows = report.evaluate(args.system, args.prompts, args.steps, args.guidance, args.seed, args.device,
                                   folder, show_progress())
    print(report.table(rows))
    if args.write:
        shares = {row: {key: round(share, 3) for key, share in of.items()} for row, of in rows.items()}
        checkpoints.add_metrics(args.system, shares, args.folder)
    return 0


def export(args: argparse.Namespace) -> int:
    """Write a system as a folder of diffusers."""
    conditions = {"stable-diffusion": None, "inpaint": "inpaint"}
    condition = conditions[inputs.one_of("system to export", args.system, conditions)]
    from course_utils.interop.folder import export_folder
    from course_utils.systems.stable_diffusion import open_stable_diffusion

    start = time.perf_counter()
    folder = export_folder(open_stable_diffusion(condition, folder=args.checkpoints), args.folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    print(f"{args.system}: {size:.1f} MB in {time.perf_counter() - start:.1f} s: {folder}\nIts README.md says how to "
          "open it in diffusers.")
    return 0


def show_progress():
    """A progress(done, total) that draws a bar on a terminal, and nothing elsewhere."""
    from tqdm import tqdm

    bar = tqdm(disable=not sys.stderr.isatty(), unit="step", leave=False)

    def progress(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)
        if done >= total:
            bar.close()

    return progress
