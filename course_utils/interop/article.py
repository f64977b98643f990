"""The models that the article draws with, from the Hugging Face hub, at fixed commits: a Stable Diffusion and a LoRA.

Both are of 2023 and lie there as pickles only. A pickle can run foreign code when it is opened, so nothing is read
unless `read_pickles` says so, and then by PyTorch's restricted reader, which makes tensors and nothing else. Tests have
no network: none checks that the hub still holds these files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from course_utils.errors import CheckpointError

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


@dataclass(frozen=True)
class Pinned:
    """A repository of the hub at one commit, and which of its files are wanted."""

    repository: str
    revision: str
    files: tuple[str, ...]


MODEL = Pinned(  # licence: CreativeML Open RAIL-M
    "IDEA-CCNL/Taiyi-Stable-Diffusion-1B-Anime-Chinese-v0.1",
    "bdb157e2aa4f6f45c3e810a4aeb19560684972e2",
    ("model_index.json", "*/*.json", "*/*.txt", "*/*.bin"),  # not model.ckpt: the same weights once more
)
LORA = Pinned(  # licence: Apache-2.0
    "souljoy/sd-pokemon-model-lora-zh",
    "45922a8dbbdb4a9ce4a66eef0b9954811ae0cb18",
    ("pytorch_lora_weights.bin",),
)
LORA_FILE = "pytorch_lora_weights.bin"


def open_article(
    read_pickles: bool = False,
    device: str | torch.device | None = None,
    model: Pinned | Path = MODEL,
    lora: Pinned | Path = LORA,
) -> StableDiffusionPipeline:
    """Return diffusers' pipeline with the article's model, its safety checker and its LoRA.

    read_pickles: may pickles be read, by PyTorch's restricted reader? device: None takes the best there is; on a GPU in
    half precision. model, lora: other repositories, or folders that hold them. About 5 GB come down, once. Raises
    CheckpointError, in one sentence, where pickles may not be read, without a network, for a repository or commit that
    is gone, and for a safety checker that is not read whole. Built in notebook 13.
    """
    if not read_pickles:
        raise CheckpointError(
            f"{MODEL.repository} and {LORA.repository} hold their weights as pickles only, which could run foreign "
            "code: set READ_PICKLES = True to read them by PyTorch's restricted reader, which makes tensors only"
        )
    from diffusers import StableDiffusionPipeline
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    from course_utils.devices import best_device

    folder, lora_folder = fetch(model), fetch(lora)
    device = torch.device(best_device(None if device is None else str(device)))
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    pipe = StableDiffusionPipeline.from_pretrained(
        folder,
        dtype=dtype,
        use_safetensors=False,
        feature_extractor=CLIPImageProcessorPil.from_pretrained(folder / "feature_extractor"),  # needs no torchvision
        safety_checker=open_checker(folder / "safety_checker", dtype),
    )
    pipe.unet.load_lora_adapter(lora_folder, prefix=None, weight_name=LORA_FILE, use_safetensors=False)
    return pipe.to(device)


def open_checker(folder: Path, dtype: torch.dtype) -> torch.nn.Module:
    """Return the safety checker of a folder; CheckpointError where weights are missing: it would let all through."""
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker

    checker, found = StableDiffusionSafetyChecker.from_pretrained(
        folder, dtype=dtype, use_safetensors=False, output_loading_info=True
    )
    if missing := sorted(found["missing_keys"]):
        raise CheckpointError(
            f"the safety checker of {folder} is not read whole ({missing[0]} is missing), so it would check at random: "
            "open it with the version of transformers that its config.json names"
        )
    return checker


def fetch(source: Pinned | Path) -> Path:
    """Return the folder of a repository at its commit, from the hub or its cache; a folder is returned as it is."""
    if isinstance(source, Path):
        return source
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(source.repository, revision=source.revision, allow_patterns=list(source.files)))
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, errors.HTTPError) as error:
        raise CheckpointError(explain(error, source)) from None


def explain(error: Exception, source: Pinned) -> str:
    """One sentence: why a repository cannot be fetched, and what to do."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return f"{source.repository} wants its terms agreed to: do so on huggingface.co, then run `hf auth login`"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{source.repository} is gone from huggingface.co: use the course's own folder and LoRA, as above"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{source.repository} no longer has the commit {source.revision[:12]}: look there for a newer one"
    return (
        f"{source.repository} could not be fetched from huggingface.co: connect to a network, or use the course's own "
        "folder and LoRA, as above"
    )
