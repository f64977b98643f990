"""`course train`: recipes in the order of their needs, within a budget, and never at the cost of what is there."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import signal
from pathlib import Path

from course_utils import errors
from course_utils.app import inputs

SHOW_EVERY = 0.5  # seconds: often enough to watch, too seldom to slow training down


def train(args: argparse.Namespace) -> int:
    """Train one recipe, or all of them one after the other, each after those whose checkpoints it builds on."""
    errors.number("minutes", args.minutes, inputs.MINUTES, above=True)
    errors.integer("seed", args.seed, errors.SEED)
    if args.all == (args.name is not None):
        raise errors.InputError("name one recipe, or say --all (see `course list`)")
    from course_utils import devices
    from course_utils.recipes.catalog import find, in_order

    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let what a script starts with & ignore Ctrl-C
    device = devices.best_device(args.device)
    chosen = [find(args.name)] if args.name else in_order()
    for recipe in chosen:
        refuse_to_discard(run_file(args.run_dir, recipe.name), args)
    total = sum(recipe.time_share for recipe in chosen)
    for recipe in chosen:
        train_one(recipe, args.minutes * recipe.time_share / total, device, args)
    return 0


def train_one(recipe, minutes: float, device, args: argparse.Namespace) -> None:
    """Train one recipe with a progress bar, then save its checkpoint."""
    from accelerate.state import PartialState
    from tqdm import tqdm

    from course_utils.devices import describe, mixed_precision
    from course_utils.evaluation.learning import WATCHES
    from course_utils.prefetch import workers_for
    from course_utils.training import train as train_steps

    main_process = os.environ.get("RANK", "0") == "0"  # `accelerate launch` starts several
    where = run_file(args.run_dir, recipe.name)
    resume = args.resume and (where.exists() or not args.all)  # --all: some recipes may not have begun
    before = beginning(recipe, args, where if resume else None)
    weights = shipped_weights(recipe) if args.from_shipped and not resume else None
    steps = train_steps(
        recipe,
        minutes,
        args.seed,
        resume,
        args.run_dir,
        device,
        weights=weights,
        before=before,
        workers=workers_for(device, recipe.batch),
    )
    if main_process:
        precision = str(mixed_precision(device)).removeprefix("torch.")
        print(f"{recipe.name} trains in {precision} on {describe(device)}")
    bar = tqdm(
        total=round(60 * minutes),
        desc=recipe.name,
        disable=not main_process,
        bar_format="{desc} {percentage:3.0f}%|{bar}| {postfix}",
    )
    try:
        with exclusive_run(where) if main_process else contextlib.nullcontext(), contextlib.closing(steps), bar:
            state = show_states(steps, bar, WATCHES.get(recipe.name) if main_process else None)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"stopped; {where} holds the run. Go on with: {resume_command(args)}"
            if where.exists()
            else "stopped before anything was learnt"
        ) from None
    if state is None and not args.all:  # of all recipes, some may be done
        raise errors.InputError(f"the run of {recipe.name!r} has used its {minutes:g} minutes: give it more to go on")
    if state and main_process:
        save_checkpoint(recipe, state, device, args)
    PartialState().wait_for_everyone()  # the next recipe may build on this checkpoint


def refuse_to_discard(where: Path, args: argparse.Namespace) -> None:
    """InputError where a new run would take the place of one that has not used up its time."""
    from course_utils.runs import read_progress

    progress = read_progress(where)
    unfinished = progress and progress.get("budget", float("inf")) - progress["seconds"] > 1
    if unfinished and not args.resume and not args.restart:
        raise errors.InputError(
            f"{where} holds an unfinished run of {progress['step']:,} steps: --resume goes on with "
            "it, --restart throws it away, another --run-dir lets it be"
        )


def beginning(recipe, args: argparse.Namespace, resumed: Path | None) -> dict:
    """What the weights to begin with have behind them, and the checkpoints they build on; InputError for others' run.

    CheckpointError when a checkpoint that the recipe builds on is missing, or does not fit another.
    """
    from course_utils import checkpoints
    from course_utils.recipes.catalog import check_required
    from course_utils.runs import read_progress

    check_required(recipe)
    before = {"parents": {name: checkpoints.card(name)["sha256"] for name in recipe.requires}}
    if resumed:
        begun_with = (read_progress(resumed).get("before") or before)["parents"]
        for name, digest in before["parents"].items():
            if begun_with.get(name, digest) != digest:
                raise errors.InputError(
                    f"{resumed} was begun with another {name}.safetensors than there is now: bring it back, or "
                    "--restart"
                )
    elif args.from_shipped:
        card = checkpoints.card(recipe.name)
        before |= {key: card.get(key, 0) for key in ("steps", "pictures", "minutes")}
        before["history"] = f"{card['history']}; then " if "history" in card else ""
        before["curve"] = card.get("curve", [])
    return before


def shipped_weights(recipe) -> dict:
    """The weights of a recipe's shipped checkpoint, to train on from there."""
    from course_utils import checkpoints

    if recipe.lora:
        from course_utils.finetune.lora import set_adapter
        from course_utils.interop.lora_files import load_shipped_lora

        network = recipe.model()
        set_adapter(network, *load_shipped_lora(recipe.name))
        return network.state_dict()
    return checkpoints.load(recipe.name, recipe.model()).state_dict()


@contextlib.contextmanager
def exclusive_run(where: Path):
    """Refuse to train into a run that another process is training: the two would overwrite each other's states."""
    from filelock import FileLock, Timeout

    where.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(where.with_name(where.name + ".training.lock"), timeout=0)  # the system frees it after a kill
    try:
        lock.acquire()
    except Timeout:
        raise errors.InputError(
            f"another `course train` is writing {where}: let it end or stop it, or name another --run-dir"
        ) from None
    try:
        yield
    finally:
        lock.release()


def show_states(steps, bar, watch=None):
    """Show the states of a training run on a progress bar; return the last one (None: there was no step).

    watch(network) -> {what: number} is added to each new point of the learning curve.
    """
    state, shown, points = None, 0.0, None
    for state in steps:
        points = len(state.curve) if points is None else points
        if watch and len(state.curve) > points:
            state.curve[-1] |= watch(state.ema)
            points = len(state.curve)
        if state.seconds - shown >= SHOW_EVERY or state.seconds_left == 0:
            bar.update(min(state.seconds, bar.total) - bar.n)
            bar.set_postfix_str(
                f"loss {state.loss:.4f}, {state.pictures_per_s:.0f} pictures/s, {clock(state.seconds_left)} left"
            )
            shown = state.seconds
    return state


def run_file(run_dir: Path, name: str) -> Path:
    """Where `training.train` saves a run."""
    return run_dir / f"{name}.run.safetensors"


def clock(seconds: float) -> str:
    """Seconds as minutes and seconds, such as 1:05."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def resume_command(args: argparse.Namespace) -> str:
    """The command that goes on with what these arguments began, to be pasted into a shell."""
    words = ["course", "train", args.name or "--all", "--minutes", f"{args.minutes:.10g}"]
    words += ["--seed", str(args.seed), "--run-dir", str(args.run_dir)]
    words += ["--device", args.device] if args.device else []
    words += ["--resume", *["--continue"] * args.from_shipped, *["--replace"] * args.replace]
    return shlex.join(words)


def save_checkpoint(recipe, state, device, args: argparse.Namespace) -> None:
    """Save a checkpoint with its card; where there is one already and --replace was not said, beside the run."""
    from course_utils import checkpoints

    stays = recipe.name in checkpoints.available() and not args.replace
    card = describe(recipe, state, device, args.seed)
    path = checkpoints.save(
        recipe.name, weights_to_save(recipe, state.ema), card, folder=args.run_dir if stays else None
    )
    print(f"{recipe.name}: {state.step:,} steps, {state.seconds / 60:.4g} minutes, loss {state.loss:.4f}: {path}")
    if stays:
        use = f"--lora {shlex.quote(str(path))}" if recipe.lora else f"--from {shlex.quote(str(args.run_dir))}"
        print(
            f"There was a checkpoint of {recipe.name} already, and it stays (--replace would have replaced it): "
            f"`course draw` and `course evaluate` take yours with {use}"
        )


def describe(recipe, state, device, seed: int) -> dict:
    """What the card says: of all the training that is in the weights, and of the checkpoints they build on."""
    from course_utils import devices

    card = {
        "recipe": recipe.name,
        "steps": state.step,
        "pictures": state.pictures,
        "seed": seed,
        "minutes": round(state.seconds / 60, 2),
        "hardware": devices.describe(device),
    }
    before = state.before or {}
    if "steps" in before:
        card["history"] = f"{before['history']}{before['minutes']:g} minutes, and {card['minutes']:g} more from there"
        card |= {key: round(before[key] + card[key], 2) for key in ("steps", "pictures", "minutes")}
    card["curve"] = before.get("curve", []) + [
        point | {key: round(before.get(key, 0) + point[key], 1) for key in ("minutes", "pictures")}
        for point in state.curve
    ]
    card["parents"] = before.get("parents", {})
    if recipe.measure:
        card |= recipe.measure(state.ema)
    return card | {"metrics": {"training_loss": round(state.loss, 5)}}


def weights_to_save(recipe, network):
    """What a checkpoint holds: the network, or its LoRA under the names that diffusers reads (α is the rank)."""
    if not recipe.lora:
        return network
    from course_utils.finetune.lora import lora_state

    return {f"unet.{key}": value for key, value in lora_state(network).items()}
