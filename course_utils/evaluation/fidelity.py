"""Has it learned the subject, does it still obey, does it still know the class? Four numbers for one fine-tuned model.

    pictures of the subject + real pictures it never saw ────► subject fidelity   up     the paper: DINO, CLIP-I
    pictures of the subject + what was asked ────────────────► prompt fidelity    up     the paper: CLIP-T
    pictures of the class   + real pictures of the subject ──► PRES               down   the paper: DINO
    pictures of the subject, several a prompt ───────────────► DIV                up     the paper: LPIPS

Ruiz et al. 2023 (DreamBooth), sections 4.1 and 4.3. All are stand-ins on our own small networks: compare them within
this course, never with a paper. The evaluator has never seen the subject. Its features hold the background too, a
little: models compare on the same prompts, and the real pictures show the same scenes.
"""

import torch
import torch.nn.functional as F

from course_utils.decoder.perceptual import perceptual_distance
from course_utils.errors import InputError
from course_utils.evaluation.metrics import ATTRIBUTES, alignment, extract_features


def similarity(evaluator, x, y) -> float:
    """Return the mean cosine of the evaluator's features over all pairs of pictures (N, 3, H, W) and (M, 3, H, W).

    Subject fidelity where x shows the subject, drawn, and y real pictures of it; PRES where x shows its class. 1 for
    one picture, near 0 for any two things. Raises InputError for anything but two batches of at least one picture.
    Built in notebook 10.
    """
    a, b = (F.normalize(extract_features(evaluator, pictures), dim=1) for pictures in (x, y))  # (N, F), (M, F)
    return (a @ b.T).mean().item()


def prompt_fidelity(evaluator, x, targets) -> float:
    """Return the mean share of pictures x (N, 3, H, W) that show the background, colour, ... asked for, in [0, 1].

    targets: as in `metrics.alignment`; what nobody asked does not count. Raises InputError where nothing is asked, and
    as `alignment` does. Built in notebook 10.
    """
    shares = torch.tensor([share for key, share in alignment(evaluator, x, targets).items() if key in ATTRIBUTES])
    if shares.isnan().all():
        raise InputError("nothing is asked of these pictures: name a background, or what else they should show")
    return shares.nanmean().item()


def prompt_diversity(net, x, prompts) -> float:
    """Return the mean perceptual distance between pictures x (N, 3, H, W) of one prompt: 0 when all are the same.

    net: the FeatureNet of notebook 05; prompts: N labels, only pairs of equal ones count. Noise is diverse too: look at
    the pictures. Raises InputError when there are not N labels, or no two pictures belong together. Built in notebook
    10.
    """
    if len(prompts) != len(x):
        raise InputError(f"there are {len(x)} pictures, but {len(prompts)} prompts")
    pairs = torch.tensor([(i, j) for j in range(len(x)) for i in range(j) if prompts[i] == prompts[j]])
    if not len(pairs):
        raise InputError("diversity needs a prompt drawn at least twice")
    with torch.no_grad():
        parts = [perceptual_distance(net, x[i], x[j]) for i, j in (part.unbind(1) for part in pairs.split(64))]
    return torch.cat(parts).mean().item()


def fidelity(evaluator, net, subject, prompts, targets, kind, real) -> dict[str, float]:
    """Return {"subject", "prompt", "PRES", "DIV"}, one row of the table that compares fine-tuned models.

    subject (N, 3, H, W): pictures drawn for N `prompts` with the subject's name, each prompt at least twice, and what
    these `targets`; kind (M, 3, H, W): pictures drawn for prompts with its class alone; real: pictures of the subject
    that training never showed. All in [-1, 1]. Raises what its parts raise. Built in notebook 10.
    """
    return {
        "subject": similarity(evaluator, subject, real),
        "prompt": prompt_fidelity(evaluator, subject, targets),
        "PRES": similarity(evaluator, kind, real),
        "DIV": prompt_diversity(net, subject, prompts),
    }
