"""LoRA files: what diffusers, peft and kohya's scripts write is read here, and what is written here opens there.

    state, alpha ──► save_lora(path, ..., form) ──► one .safetensors file, or a folder for peft
    any of them  ──► read_lora(path) ──► state, alpha ──► finetune.lora.set_adapter(network, state, alpha)

All hold the same matrices under different names, and each says α in another place: in the file's metadata (diffusers),
in a tensor for each layer (kohya), in adapter_config.json (peft), or nowhere (old diffusers: α is the rank).
"""

import json
import math
import re
from pathlib import Path

import torch

from course_utils import checkpoints
from course_utils.checkpoints import write_atomically
from course_utils.errors import CheckpointError, InputError
from course_utils.finetune.lora import lora_factors, merge, set_adapter, weighted_sum

FORMS = ("diffusers", "peft", "kohya", "attn_procs")
METADATA_KEY = "lora_adapter_metadata"  # where diffusers keeps peft's configuration, in the file itself
PEFT_PREFIX, KOHYA_PREFIX = "base_model.model.", "lora_unet_"
PREFIXES = (PEFT_PREFIX, "unet.", KOHYA_PREFIX)
FILES = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")  # of peft and diffusers, in a folder
CONFIG_FILE = "adapter_config.json"  # of peft, beside its weights
BASE = "stable-diffusion"  # the checkpoint whose U-Net the LoRAs change
MOVING = ("pissa", "olora", "corda", "loftq")  # ways of peft to begin that change the frozen weights too
SPELLINGS = {  # of lora_A and lora_B through the years, looked for in this order
    ".processor.": ".",
    "to_out_lora.": "to_out.0.lora.",
    "_lora.": ".lora.",
    ".lora.down.": ".lora_A.",
    ".lora.up.": ".lora_B.",
    ".lora_down.": ".lora_A.",
    ".lora_up.": ".lora_B.",
}
UNDERSCORED = (  # names with an underscore of their own: kohya writes one for every dot too
    "down_blocks",
    "mid_block",
    "up_blocks",
    "transformer_blocks",
    "to_q",
    "to_k",
    "to_v",
    "to_out",
    "proj_in",
    "proj_out",
    "time_emb_proj",
    "conv_in",
    "conv_out",
    "conv_shortcut",
    "time_embedding",
    "add_embedding",
    "linear_1",
    "linear_2",
    "q_proj",
    "k_proj",
    "v_proj",
)


# ------------------------------------------------------------------ writing
def save_lora(path, state, alpha=None, form="diffusers", dtype=torch.float16):
    """Write a LoRA, whole or not at all, and return the path.

    state: see `finetune.lora.lora_state`; alpha: one number, None for each layer's rank. form "diffusers":
    for `pipeline.load_lora_weights`; "attn_procs": the same without "unet." and α, for
    `pipeline.unet.load_lora_adapter(prefix=None)`, once `load_attn_procs`; "kohya": for kohya's scripts and what
    grew around them; "peft": a folder for `PeftModel.from_pretrained`. dtype: half precision halves the file.
    Raises InputError for an unknown form or a broken state, CheckpointError on a full disk. Built in notebook 11.
    """
    if form not in FORMS:
        raise InputError(f"unknown form {form!r}: choose one of {', '.join(FORMS)}")
    path, config, metadata = Path(path), adapter_config(state, alpha), {"format": "pt"}
    if form in ("kohya", "attn_procs"):
        tensors = old_names(state, alpha, kohya=form == "kohya")
    else:
        prefix = {"diffusers": "unet.", "peft": PEFT_PREFIX}[form]
        tensors = {prefix + key: value for key, value in state.items()}
    if form == "diffusers":
        metadata[METADATA_KEY] = json.dumps({f"unet.{key}": value for key, value in config.items()}, sort_keys=True)
    write_tensors(path / FILES[0] if form == "peft" else path, tensors, metadata, dtype)
    if form == "peft":
        text = json.dumps(config, indent=2, sort_keys=True)
        write_atomically(path / CONFIG_FILE, lambda temporary: Path(temporary).write_text(text))
    return path


def write_tensors(path, tensors, metadata, dtype):
    """Write tensors and metadata as one safetensors file, at once or not at all."""
    from safetensors.torch import save_file

    tensors = {key: value.detach().to("cpu", dtype).contiguous() for key, value in tensors.items()}
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata))


def adapter_config(state, alpha):
    """Return what peft must know of a state, as its LoraConfig says it."""
    ranks = {layer: len(A) for layer, (A, _) in lora_factors(state).items()}
    rank = max(ranks.values())
    others = {layer: r for layer, r in ranks.items() if r != rank}
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank if alpha is None else alpha,
        "target_modules": list(ranks),
        "rank_pattern": others,
        "alpha_pattern": others if alpha is None else {},
        "inference_mode": True,
    }


def old_names(state, alpha, kohya):
    """Return a state under the names down and up: kohya's, with an α for every layer, or those of old diffusers.

    The latter know no α, so it is folded into B. Kohya's α is the same for all layers, B scaled where ranks differ:
    diffusers overlooks the α of attention where they are many.
    """
    tensors, layers = {}, lora_factors(state)
    shared = max(len(A) for A, _ in layers.values()) if alpha is None else alpha
    for layer, (A, B) in layers.items():
        if kohya:
            name, B = KOHYA_PREFIX + layer.replace(".", "_"), B if alpha is not None else B * (len(A) / shared)
            tensors |= {
                f"{name}.lora_down.weight": A,
                f"{name}.lora_up.weight": B,
                f"{name}.alpha": torch.tensor(float(shared)),
            }
        else:
            scale = 1.0 if alpha is None else alpha / len(A)
            tensors |= {f"{layer}.lora.down.weight": A, f"{layer}.lora.up.weight": scale * B}
    return tensors


# ------------------------------------------------------------------ reading
def load_shipped_lora(name, folder=None):
    """Return a shipped LoRA as (state, alpha). Raises CheckpointError when it is missing, damaged or of another U-Net.

    Built in notebook 11.
    """
    checkpoints.parent_folder(name, BASE, folder)
    return read_lora(checkpoints.check(name, folder))


def read_lora(path):
    """Read a LoRA for the U-Net, in whichever form, and return (state, alpha) in float32.

    path: a .safetensors file, or the folder that peft or diffusers wrote. Whatever α the file gives its layers is
    folded into B, so alpha is the rank, or None where ranks differ, and states can be mixed as they are.
    Raises CheckpointError, in one sentence, for what is missing, damaged, no plain LoRA or no finite numbers, and for
    peft's weights without the file that holds their α. Built in notebook 11.
    """
    path = find_file(Path(path))
    tensors, config = read_file(path)
    state, alphas = {}, {}
    for key, value in tensors.items():
        layer, part = read_key(key, path.name)
        if part == "alpha":
            alphas[layer] = read_alpha(value, path.name)
        elif (name := f"{layer}.{part}.weight") in state:
            raise CheckpointError(f"{path.name} holds {name} twice, under two names: save the LoRA again")
        else:
            state[name] = value.float()
    try:
        layers = lora_factors(state)
    except ValueError as error:
        raise CheckpointError(f"{path.name}: {error}") from None
    for layer, (A, B) in layers.items():
        if not len(A):
            raise CheckpointError(f"{path.name} is empty: the rank of {layer} is 0")
        scale = alphas.get(layer, read_alpha(find_alpha(config, layer, len(A)), path.name)) / len(A)
        if config.get("use_rslora"):  # peft's rank-stabilised LoRA divides by the root
            scale *= len(A) ** 0.5
        state[f"{layer}.lora_B.weight"] = B if scale == 1 else scale * B
    if broken := checkpoints.not_finite(state):
        raise CheckpointError(f"{path.name} holds NaN or infinity, in {broken}, and would draw nothing: train it anew")
    ranks = {len(A) for A, _ in layers.values()}
    return state, ranks.pop() if len(ranks) == 1 else None


def lora_adapter(lora, folder=None, strength=1.0):
    """Return a function that merges a LoRA, or the sum of several, into a U-Net.

    lora: what `find_lora` takes, or a list of it; folder: where the U-Net's checkpoint lies (None: among the shipped
    ones); strength: what each is multiplied by. Raises InputError where one is named twice. What it returns raises
    CheckpointError for a LoRA whose card names another U-Net than the one there.
    """
    files = [find_lora(one, folder) for one in named(lora)]
    if len({file.resolve() for file in files}) < len(files):
        raise InputError("a LoRA is named twice, which would double it: name each once")

    def adapt(unet):
        for file in files:
            check_base(file, unet_folder(lora, folder))
        states = [read_lora(file) for file in files]  # alpha is the rank of each, so they can be added up
        set_adapter(unet, weighted_sum([(state, strength) for state, _ in states]))
        merge(unet)

    return adapt


def named(lora):
    """Return one LoRA, or several, as a list."""
    return list(lora) if isinstance(lora, (list, tuple)) else [lora]


def is_name(lora):
    """Is this the name of a checkpoint, and no path: xp7, but not ./xp7 nor xp7.safetensors?"""
    return isinstance(lora, str) and Path(lora).name == lora and not Path(lora).suffix


def find_lora(lora, folder=None):
    """Return the file of a LoRA: a checkpoint's name, looked for in `folder`, then among the shipped; else a path.

    A name means the checkpoint, whatever the working directory holds: ./xp7 is the folder there. Raises CheckpointError
    when it is missing or, if it has a card, damaged.
    """
    for place in dict.fromkeys((folder, None)) if is_name(lora) else ():
        if lora in checkpoints.available(place):
            return checkpoints.check(lora, place)
    return find_file(Path(lora))


def unet_folder(lora, folder=None):
    """Return the folder of the U-Net that takes the LoRAs: `folder`, or None (the shipped) if it holds LoRAs alone."""
    there = checkpoints.available(folder)
    alone = folder is not None and BASE not in there and all(is_name(one) and one in there for one in named(lora))
    return None if alone else folder


def check_base(file, folder=None):
    """Raise CheckpointError if a card beside a LoRA names another U-Net than the one in a folder of checkpoints."""
    if not file.with_suffix(".json").exists():
        return  # of somebody else: whether it fits shows in its shapes
    promised = checkpoints.card(file.stem, file.parent).get("parents", {}).get(BASE)
    there = checkpoints.card(BASE, folder).get("sha256")
    if promised not in (None, there):
        home = Path(folder or checkpoints.CHECKPOINT_DIR)
        raise CheckpointError(
            f"{file} belongs to another {BASE}.safetensors than {home / BASE}.safetensors, so they do not fit: train "
            "it anew, or name the folder of its own with --from"
        )


def find_file(path):
    """Return the file of weights at a path, or in the folder there."""
    if path.is_dir():
        found = [path / name for name in FILES if (path / name).exists()]
        if not found:
            raise CheckpointError(f"{path} holds no LoRA: neither {' nor '.join(FILES)}")
        return found[0]
    if not path.exists():
        raise CheckpointError(f"there is no {path}: name a LoRA's .safetensors file or its folder")
    if path.suffix != ".safetensors":
        raise CheckpointError(
            f"{path.name} is no .safetensors file: a LoRA is read from nothing else, since a pickle "
            "can run foreign code"
        )
    return path


def read_file(path):
    """Return the tensors of a file, and its configuration: from its metadata, or from peft's file beside it."""
    from safetensors import SafetensorError, safe_open

    checkpoints.refuse_pointer(path)
    beside = path.with_name(CONFIG_FILE)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no dict)
            config = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
        of_peft = any(key.startswith(PEFT_PREFIX) for key in tensors)  # whatever the file is called now
        if of_peft and beside.exists():
            config = json.loads(beside.read_text(encoding="utf-8"))
        config = {key.removeprefix("unet."): value for key, value in config.items()}
        [re.compile(pattern) for pattern in (config.get("alpha_pattern") or {}).keys()]  # noqa: SIM118 (if it is one)
    except (SafetensorError, OSError, ValueError, AttributeError, RecursionError, re.error):
        raise CheckpointError(f"{path.name} is truncated or altered: fetch or save the LoRA again") from None
    if of_peft and "lora_alpha" not in config:
        raise CheckpointError(
            f"{path} was written by peft, which keeps α in {CONFIG_FILE}: put that file beside it, or nobody knows how "
            "strong the LoRA is"
        )
    way = config.get("init_lora_weights")
    if isinstance(way, str) and way.lower().startswith(MOVING):
        raise CheckpointError(
            f"{path.name} began as {way}, which changes the frozen weights too: save it as a plain LoRA"
        )
    return tensors, config


def find_alpha(config, layer, rank):
    """Return the α that peft's configuration gives a layer: its pattern's, or everybody's, or the rank."""
    for pattern, alpha in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", layer):
            return alpha
    return config.get("lora_alpha", rank)


def read_alpha(value, file):
    """Return an α as a number, or raise CheckpointError for what is none."""
    try:
        alpha = float(value)
    except (TypeError, ValueError, RuntimeError):  # the last for a tensor of many numbers
        alpha = math.nan
    if not math.isfinite(alpha):
        raise CheckpointError(f"{file} has an α that is no number: fetch or save the LoRA again")
    return alpha


def read_key(key, file):
    """Return (layer, "lora_A", "lora_B" or "alpha") of a key, in whichever form it is written."""
    if key.startswith(("text_encoder", "lora_te")):
        raise CheckpointError(f"{file} changes a text encoder too, and the course's stays frozen: train the U-Net only")
    prefix = next((p for p in PREFIXES if key.startswith(p)), "")
    name = key.removeprefix(prefix)
    for theirs, ours in SPELLINGS.items():
        name = name.replace(theirs, ours)
    layer, _, part = name.removesuffix(".weight").rpartition(".")
    if not layer or part not in ("lora_A", "lora_B", "alpha"):
        raise CheckpointError(f"{file} is no plain LoRA: it holds {key!r}, and the course reads pairs of matrices")
    return dotted(layer) if prefix == "lora_unet_" else layer, part


def dotted(name):
    """Return a module's name as kohya writes it, all underscores, with its dots: mid_block_resnets_0_conv1."""
    name = name.replace("_", ".")
    for word in UNDERSCORED:
        name = re.sub(rf"(^|\.){word.replace('_', '[.]')}(?=\.|$)", rf"\1{word}", name)
    return name
