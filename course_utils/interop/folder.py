"""A system as a folder of diffusers: a subfolder for every part, its numbers in JSON, its weights in safetensors.

What the course trained opens in diffusers, and a Stable Diffusion 1.x of the field opens in the course's own classes.
"""

import json
import os
import re
import tempfile
from contextlib import contextmanager
from pathlib import Path

import torch

from course_utils.checkpoints import is_full_disk, refuse_pointer
from course_utils.errors import CheckpointError
from course_utils.interop import diffusers
from course_utils.systems.stable_diffusion import StableDiffusion

REPOSITORY = "stable-diffusion-v1-5/stable-diffusion-v1-5"
REVISION = "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"  # a commit, so that nobody can change what is opened
# Half precision, 2.1 GB instead of 4.3. Tests have no network, so none checks that the hub still holds these files.
FILES = (
    "model_index.json",
    "*/config.json",
    "scheduler/*",
    "tokenizer/*",
    "text_encoder/model.fp16.safetensors",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "vae/diffusion_pytorch_model.fp16.safetensors",
)
INDEX = "model_index.json"  # what every pipeline of diffusers opens first
MARK = "Exported by the course Pictures from Noise"
CARD = f"""---
license: mit
library_name: diffusers
pipeline_tag: text-to-image
---
# {MARK}

    from diffusers import {{pipeline}}

    pipeline = {{pipeline}}.from_pretrained("path/of/this/folder")

The course draws with `guidance_scale=2.0` and `num_inference_steps=20`. The tokenizer needs transformers 5 or newer.
"""


# ------------------------------------------------------------------ ours, opened by diffusers
def export_folder(system, folder, size=64, card=CARD):
    """Write a StableDiffusion with the course's tokenizer as a folder for `StableDiffusionPipeline.from_pretrained`.

    size: pixels a side of what the pipeline draws when nothing is said; card: its README.md, in which {pipeline} stands
    for the name of diffusers' class and MARK says whose export this is. An earlier export is replaced. Returns the
    path. Raises CheckpointError when the folder holds something else, or the disk is full. Built in notebook 06.
    """
    folder = Path(folder)
    if folder.exists() and not is_export(folder):
        raise CheckpointError(f"{folder} holds something else: name a new folder, an empty one or an earlier export")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=folder.name, suffix=".part") as temporary:
        new = Path(temporary) / "new"
        new.mkdir()  # which honours the umask, as tempfile does not
        try:
            write(system, new, size, card)
        except Exception as error:
            if is_full_disk(error):
                raise CheckpointError(f"the disk is full: {folder} was not written; free some space") from error
            raise
        put_in_place(new, folder)
    return folder


def is_export(folder):
    """Is this an empty folder, or one that `export_folder` wrote?"""
    card = folder / "README.md"
    if card.is_file():
        return MARK in card.read_text("utf-8", errors="replace")
    return folder.is_dir() and not any(folder.iterdir())


def write(system, folder, size, card):
    """Save a system with the classes of diffusers, and a card that says how to open it."""
    with quiet():
        pipeline = diffusers.to_pipeline(system, size)
        pipeline.save_pretrained(folder)
    readme = folder / "README.md"
    readme.write_text(card.replace("{pipeline}", type(pipeline).__name__), encoding="utf-8")
    for weights in folder.rglob("*.safetensors"):  # safetensors writes them for their owner's eyes only
        weights.chmod(readme.stat().st_mode)


@contextmanager
def quiet():
    """Keep transformers from warning of packages that are not needed here, and from drawing progress bars."""
    from transformers.utils import logging

    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def put_in_place(source, folder):
    """Move all that lies in a folder to another, at once where that is empty or new.

    Else part by part, each whole: the card first, since it says that what is there may be replaced, and the index last,
    so that a folder in which two exports mix, because the process was killed, opens nowhere.
    """
    if not folder.exists() or not any(folder.iterdir()):
        if folder.exists():
            folder.rmdir()
        os.replace(source, folder)
        return
    order = {"README.md": 0, INDEX: 2}
    (folder / INDEX).unlink(missing_ok=True)
    for new in sorted(source.iterdir(), key=lambda path: order.get(path.name, 1)):
        old = folder / new.name
        if old.is_dir():
            os.replace(old, source / f"old {new.name}")  # goes with the rest, and is never seen half deleted
        os.replace(new, old)


# ------------------------------------------------------------------ theirs, opened by our classes
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # of the first autoencoders


def open_folder(folder, device=None):
    """Return a StableDiffusion of the course's own classes, filled from a folder of diffusers: Stable Diffusion 1.x.

    Weights are read from safetensors only. The default sampler is diffusers' DPM-Solver++ (2M) with the folder's
    schedule. Raises CheckpointError, in one sentence, for a folder that is missing, damaged or of another kind.
    Built in notebook 06.
    """
    folder = Path(folder)
    text, unet, vae, scheduler = (read_config(folder, part) for part in diffusers.ASSUMED)
    with torch.device("meta"):  # no random numbers for weights that are replaced at once
        modules = diffusers.make_text_encoder(text), diffusers.make_unet(unet), diffusers.make_vae(vae)
    parts = zip(("text_encoder", "unet", "vae"), modules, strict=True)
    modules = [load_weights(module, folder / part, device) for part, module in parts]
    scaling_factor = vae.get("scaling_factor", 0.18215)  # the first configurations leave it out
    tokenize = read_tokenizer(folder, text["max_position_embeddings"], text["vocab_size"])
    options = diffusers.scheduler_options(scheduler)
    return StableDiffusion(*modules, scaling_factor, tokenize, vocabulary=None, **options)


def open_remote(repository=REPOSITORY, revision=REVISION, device=None):
    """Fetch a pinned revision of Stable Diffusion 1.5 from the Hugging Face hub, about 2 GB, and open it.

    What was fetched once stays in the hub's cache. Its licence, CreativeML Open RAIL-M, restricts what the weights may
    be used for. Raises CheckpointError without a network. Built in notebook 06.
    """
    from huggingface_hub import errors, snapshot_download

    try:
        folder = snapshot_download(repository, revision=revision, allow_patterns=FILES)
    except (errors.LocalEntryNotFoundError, errors.HTTPError):
        raise CheckpointError(
            f"{repository} could not be fetched from huggingface.co: connect to a network (about 2 GB come down, "
            "once), or open a folder that you have with open_folder"
        ) from None
    return open_folder(folder, device)


def read_config(folder, part):
    """Return the numbers of a part, if our classes can do what they say."""
    path = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    try:
        config = diffusers.Config(json.loads(path.read_text(encoding="utf-8")))
    except OSError:
        raise CheckpointError(f"there is no {path}: name a folder of Stable Diffusion as diffusers saves it") from None
    except (ValueError, TypeError):
        raise CheckpointError(f"{path} is damaged: fetch or export the folder again") from None
    config.check(part)
    return config


def load_weights(module, folder, device):
    """Give a module the weights that lie in a folder, strictly, and return it in eval mode, on the device."""
    state = {}
    for name, weight in read_weights(folder).items():
        name = re.sub(r"\.(query|key|value|proj_attn)\.", lambda match: f".{OLD_NAMES[match[1]]}.", name)
        if not name.endswith("position_ids"):  # 0, 1, 2, ...: older versions saved them
            state[name.removeprefix("text_model.")] = weight.float()
    try:
        module.load_state_dict(state, assign=True)
    except RuntimeError as error:
        first = (str(error).splitlines() + [""])[1].strip()[:200]
        raise CheckpointError(f"{folder} holds another network than Stable Diffusion 1.x's: {first}") from None
    return module.to(device or "cpu", memory_format=torch.channels_last).eval()


def read_weights(folder):
    """Return the weights {name: tensor} of a part, from safetensors only: a pickle can run foreign code."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    names = ("model", "diffusion_pytorch_model")  # as transformers and diffusers call them; no other file counts
    found = [path for end in ("", ".fp16") for name in names if (path := folder / f"{name}{end}.safetensors").is_file()]
    if not found:
        pickles = [path.name for path in folder.glob("*") if path.suffix in (".bin", ".ckpt", ".pt")]
        why = f"only {pickles[0]}, a pickle, which could run foreign code" if pickles else "none"
        raise CheckpointError(f"{folder} needs weights in one .safetensors file and holds {why}")
    refuse_pointer(found[0])
    try:
        return load_file(found[0])
    except (SafetensorError, OSError):
        raise CheckpointError(f"{found[0]} is truncated or altered: fetch or export the folder again") from None


def check_vocabulary(folder, tokenizer, vocab_size):
    """Raise CheckpointError unless a tokenizer has the tokens its text encoder knows, and the files it is made of.

    transformers opens a folder without a vocabulary too, and then reads every word as unknown.
    """
    whole = [("tokenizer.json",), ("vocab.json", "merges.txt")]
    if not any(all((folder / name).is_file() for name in names) for names in whole):
        raise CheckpointError(f"{folder} holds no vocabulary: fetch or export the folder again")
    if len(tokenizer) != vocab_size:
        raise CheckpointError(
            f"{folder} has {len(tokenizer):,} tokens and the text encoder {vocab_size:,}: it is cut off, or of another "
            "model; fetch or export the folder again"
        )
    if lost := never_joined(json.loads(tokenizer.backend_tokenizer.to_str())) - set(tokenizer.all_special_tokens):
        raise CheckpointError(
            f"{folder} has no merge that makes {min(lost)!r}: it is cut off; fetch or export the folder again"
        )


def never_joined(tokenizer):
    """Return the tokens of several letters that no merge of a tokenizer makes, given as its JSON; a whole one has none.

    A token of CLIP may end in </w>, where a word ends. Other ways than byte-pair encoding have no merges.
    """
    model = tokenizer["model"]
    if model.get("type") != "BPE":
        return set()
    merges = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
    return {token for token in model["vocab"] if len(token.removesuffix("</w>")) > 1} - set(map("".join, merges))


def read_tokenizer(folder, max_tokens, vocab_size):
    """Return tokenize(texts) -> token numbers (B, L), every text cut or filled up to the full length L."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True, trust_remote_code=False)
    except Exception:  # of a damaged file, transformers and tokenizers raise errors of every kind
        raise CheckpointError(f"{folder / 'tokenizer'} holds no tokenizer that transformers opens") from None
    check_vocabulary(folder / "tokenizer", tokenizer, vocab_size)
    options = {
        "padding": "max_length",
        "truncation": True,
        "return_tensors": "pt",
        "max_length": min(tokenizer.model_max_length, max_tokens),
    }
    return lambda texts: tokenizer(list(texts), **options).input_ids
