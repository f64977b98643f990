"""`course export`: a system as a folder of diffusers, with its model card; --push uploads it to the Hugging Face hub.

checkpoints, their cards ──► folder: modules, README.md, example.png ──► huggingface_hub
"""

from __future__ import annotations

import argparse
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from course_utils import errors
from course_utils.app.generate import EXAMPLES, save_grid
from course_utils.systems.registry import SYSTEMS

if TYPE_CHECKING:  # it takes its time, and `course --help` needs none
    from course_utils.systems.stable_diffusion import StableDiffusion

EXPORTED = {  # what can be exported -> the system whose classes draw with it, and what its U-Net is conditioned on
    "stable-diffusion": ("stable-diffusion", None),
    "inpaint": ("stable-diffusion", "inpaint"),
    "stable-diffusion-clip": ("stable-diffusion-clip", None),
}
FILES = ("README.md", "example.png", "*.json", "*/*.json", "*/*.txt", "*/*.safetensors")  # no notes of somebody's own


def export(args: argparse.Namespace) -> int:
    """Write a system as a folder of diffusers, and push it when that is asked for."""
    name, condition = EXPORTED[errors.one_of("system to export", args.system, EXPORTED)]
    if args.private and args.push is None:
        raise errors.InputError("--private is about what --push uploads: say --push ME/NAME too")
    if args.push is not None:
        check_push(args.push)  # before the work
    from course_utils.app.model_card import model_card
    from course_utils.interop.folder import export_folder

    start = time.perf_counter()
    module = import_module(f"course_utils.systems.{SYSTEMS[name].module}")
    opened = module.open_stable_diffusion(condition, folder=args.checkpoints)
    card = model_card(args.system, SYSTEMS[name], EXAMPLES, condition is not None, args.checkpoints)
    folder = export_folder(opened, args.folder, card=card)
    if condition is None:
        draw_example(opened, name, folder / "example.png")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    print(
        f"{args.system}: {size:.1f} MB in {time.perf_counter() - start:.1f} s: {folder}\nIts README.md says how to "
        "open it in diffusers."
    )
    if args.push is not None:
        print(f"Pushed: {push(folder, args.push, args.private)}")
    return 0


def draw_example(opened: StableDiffusion, name: str, path: Path) -> None:
    """Draw EXAMPLES with a system, side by side in one file."""
    from course_utils.systems.stage import System

    system = System(opened.stages(), opened.device, SYSTEMS[name].steps, SYSTEMS[name].guidance)
    save_grid(system.draw(EXAMPLES), path, columns=len(EXAMPLES))


def check_push(repository: str) -> None:
    """InputError unless the name is one of a repository, and somebody is logged in."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError:
        raise errors.InputError(
            f"--push takes a repository of the hub, such as me/my-emoji, and not {errors.printable(repository)!r}"
        ) from None
    if get_token() is None:
        raise errors.InputError("the hub takes nothing from a stranger: `hf auth login` first, or set HF_TOKEN")


def push(folder: Path, repository: str, private: bool = False) -> str:
    """Upload what an export wrote, in one commit, to a repository that is made if need be; returns its address.

    The folder stays whatever happens. Raises InputError, in one sentence, when the hub refuses or does not answer.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    api = HfApi()
    try:
        made = api.create_repo(repository, private=private, exist_ok=True)
        message = "Exported by the course Pictures from Noise"
        api.upload_folder(repo_id=made.repo_id, folder_path=folder, allow_patterns=list(FILES), commit_message=message)
    except HfHubHTTPError as error:
        why = error.server_message or f"status {error.response.status_code}"
        raise errors.InputError(f"the hub refuses {repository} ({why}): may you write there? {folder} stays") from None
    except (HTTPError, OSError, RuntimeError) as error:  # the last for an upload that broke off
        why = errors.printable(str(error))
        raise errors.InputError(f"the hub is out of reach ({why}): push again with a network; {folder} stays") from None
    return str(made)
