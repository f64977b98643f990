"""LoRA: the trained weights stay as they are, and beside each runs a LoRA branch of two small matrices that learn.

    x ──┬──► base layer, frozen: W x ──────────────────────────┐
        └──► lora_A: C_in -> r ──► lora_B: r -> C_out ──► α/r ──┴─(+)──► y

What was learned is lora_A and lora_B alone: a small state that can be saved, exchanged, mixed, or merged into W.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from course_utils.errors import InputError

State = dict[str, torch.Tensor]  # what a LoRA learned, by name
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")  # what diffusers trains when nothing is said
ALL_TARGETS = (*ATTENTION, "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out", "time_emb_proj", "conv1", "conv2")


# ------------------------------------------------------------------ one layer
class LoRALayer(nn.Module):
    """A frozen layer and the branch beside it, base_layer(x) + alpha / rank * lora_B(lora_A(x)).

    lora_A begins Gaussian with standard deviation 1 / rank, lora_B zero, so that nothing changes at first. While
    `merged`, the branch lies within the base layer's weight and is not run. alpha: None takes the rank, scale 1.
    Hu et al. 2021 (LoRA), section 4.1. Built in notebook 11.
    """

    def __init__(self, base_layer, rank, alpha=None, generator=None):
        super().__init__()
        if rank < 1:
            raise InputError(f"the rank must be at least 1, not {rank!r}")
        self.base_layer, self.merged = base_layer, False
        like = {"bias": False, "device": base_layer.weight.device, "dtype": base_layer.weight.dtype}
        self.lora_A, self.lora_B = self.make_branch(base_layer, rank, **like)
        self.scale = 1.0 if alpha is None else alpha / rank
        with torch.no_grad():
            self.lora_A.weight.copy_(torch.randn(self.lora_A.weight.shape, generator=generator) / rank)
            self.lora_B.weight.zero_()

    def forward(self, x):
        y = self.base_layer(x)
        return y if self.merged else y + self.scale * self.lora_B(self.lora_A(x))

    def load(self, A: torch.Tensor, B: torch.Tensor, alpha: float | None = None) -> None:
        """Take these matrices in the place of its own; their rank may be another."""
        like = self.base_layer.weight
        self.lora_A.weight, self.lora_B.weight = (nn.Parameter(x.to(like, copy=True)) for x in (A, B))
        self.set_rank(len(A))
        self.scale = 1.0 if alpha is None else alpha / len(A)

    def delta(self) -> torch.Tensor:
        """What the branch adds to the base layer's weight, and like it: alpha / rank * B A."""
        A, B = self.lora_A.weight, self.lora_B.weight
        return self.scale * (B.flatten(1) @ A.flatten(1)).view_as(self.base_layer.weight)


class LoRALinear(LoRALayer):
    """A `LoRALayer` around a linear layer: (..., C_in) -> (..., C_out). Built in notebook 11."""

    def make_branch(self, base, rank, **like):
        return nn.Linear(base.in_features, rank, **like), nn.Linear(rank, base.out_features, **like)

    def set_rank(self, rank):
        self.lora_A.out_features = self.lora_B.in_features = rank


class LoRAConv2d(LoRALayer):
    """A `LoRALayer` around a convolution: lora_A looks at k x k pixels, lora_B at one. Built in notebook 11."""

    def make_branch(self, base, rank, **like):
        A = nn.Conv2d(base.in_channels, rank, base.kernel_size, base.stride, base.padding, base.dilation, **like)
        return A, nn.Conv2d(rank, base.out_channels, 1, **like)

    def set_rank(self, rank):
        self.lora_A.out_channels = self.lora_B.in_channels = rank


KINDS = {nn.Linear: LoRALinear, nn.Conv2d: LoRAConv2d}


# ------------------------------------------------------------------ a whole network
def inject(
    network: nn.Module,
    targets: str | Sequence[str] = ATTENTION,
    rank: int = 4,
    alpha: float | None = None,
    generator: torch.Generator | None = None,
) -> list[str]:
    """Freeze a network, put a LoRA branch beside every layer whose name ends like a target, and return their names.

    targets: one or several parts at the end of module names; generator: for the A's. Raises InputError where a target
    fits no linear layer or convolution, or the network has LoRA branches already. Built in notebook 11.
    """
    targets = (targets,) if isinstance(targets, str) else targets
    if lora_layers(network):
        raise InputError("this network has LoRA branches already: unload(network) takes them away")
    layers = {name: layer for name, layer in network.named_modules() if type(layer) in KINDS}
    for target in targets:
        if not any(f".{name}".endswith(f".{target}") for name in layers):
            raise InputError(f"no linear layer or convolution of this network is called {target!r}")
    names = [name for name in layers if f".{name}".endswith(tuple(f".{target}" for target in targets))]
    network.requires_grad_(False)
    for name in names:
        network.set_submodule(name, KINDS[type(layers[name])](layers[name], rank, alpha, generator))
    return names


def lora_layers(network: nn.Module) -> dict[str, LoRALayer]:
    """{name: LoRALayer} of the branches in a network."""
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, LoRALayer)}


def lora_parameters(network: nn.Module) -> list[nn.Parameter]:
    """The parameters that learn, for an optimizer: every lora_A and lora_B. Built in notebook 11."""
    return [p for layer in lora_layers(network).values() for p in (layer.lora_A.weight, layer.lora_B.weight)]


def lora_state(network: nn.Module) -> State:
    """A copy of what was learned: {"... .to_q.lora_A.weight": (r, C_in), "... .to_q.lora_B.weight": (C_out, r)}.

    Built in notebook 11.
    """
    parts = ("lora_A.weight", "lora_B.weight")
    return {
        f"{name}.{part}": layer.get_parameter(part).detach().clone()
        for name, layer in lora_layers(network).items()
        for part in parts
    }


def unload(network: nn.Module) -> nn.Module:
    """Take every branch away and return the network; what is merged stays, and what is frozen. Built in notebook 11."""
    for name, layer in lora_layers(network).items():
        network.set_submodule(name, layer.base_layer)
    return network


@torch.no_grad()
def merge(network: nn.Module) -> nn.Module:
    """Add every branch to the weight beside it: the same answers, without a detour. Returns the network.

    LoRA, section 4.1: W = W0 + B A alpha / r. Built in notebook 11.
    """
    for layer in lora_layers(network).values():
        if not layer.merged:
            layer.base_layer.weight += layer.delta()
            layer.merged = True
    return network


@torch.no_grad()
def unmerge(network: nn.Module) -> nn.Module:
    """Subtract every merged branch again, up to rounding, and return the network. Built in notebook 11."""
    for layer in lora_layers(network).values():
        if layer.merged:
            layer.base_layer.weight -= layer.delta()
            layer.merged = False
    return network


# ------------------------------------------------------------------ exchanging what was learned
def lora_factors(state: State) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """{layer: (A, B)} of a state. Raises InputError where one of the two is missing or ranks disagree."""
    layers = {key.rpartition(".lora_")[0] for key in state}
    if not state or {f"{layer}.lora_{part}.weight" for layer in layers for part in "AB"} != set(state):
        raise InputError("this is no LoRA state: every layer has a lora_A.weight and a lora_B.weight, and nothing else")
    found = {layer: (state[f"{layer}.lora_A.weight"], state[f"{layer}.lora_B.weight"]) for layer in sorted(layers)}
    for layer, (A, B) in found.items():
        if A.ndim != B.ndim or A.ndim < 2 or len(A) != B.shape[1]:
            raise InputError(f"lora_A and lora_B of {layer} do not fit: {tuple(A.shape)} and {tuple(B.shape)}")
    return found


def base_layer(network: nn.Module, name: str) -> nn.Module:
    """The linear layer or convolution of that name, without its branch. Raises InputError where there is none."""
    try:
        layer = network.get_submodule(name)
    except AttributeError:
        raise InputError(f"this LoRA was made for another network: here is no {name}") from None
    layer = layer.base_layer if isinstance(layer, LoRALayer) else layer
    if type(layer) not in KINDS:
        raise InputError(f"this LoRA was made for another network: {name} is no linear layer or convolution")
    return layer


@torch.no_grad()
def set_adapter(network: nn.Module, state: State, alpha: float | None = None) -> list[str]:
    """Put this LoRA, of any rank, in place of whichever the network has, and return the names of its layers.

    alpha: None takes each layer's rank. Merged branches are subtracted first. Raises InputError, and changes nothing,
    where the state names a layer that the network lacks or that has another shape. Built in notebook 11.
    """
    fitting, current = lora_factors(state), lora_layers(network)
    for name, (A, B) in fitting.items():
        C_out, *rest = base_layer(network, name).weight.shape
        if (len(B), list(A.shape[1:]), B[0].numel()) != (C_out, rest, len(A)):
            raise InputError(f"this LoRA was made for another network: {name} has other shapes here")
    unload(unmerge(network)).requires_grad_(False)
    for name, (A, B) in fitting.items():
        base = network.get_submodule(name)
        layer = current.get(name) or KINDS[type(base)](base, len(A))
        layer.load(A, B, alpha)
        network.set_submodule(name, layer)
    return list(fitting)


def weighted_sum(weighted: Sequence[tuple[State, float]]) -> State:
    """The state of a LoRA whose effect is the weighted sum of several; its rank is the sum of theirs.

    weighted: [(state, weight), ...], each with alpha = rank (else multiply its weight by alpha / rank); weights may be
    negative, and a layer that only some know is kept. A is stacked, B weighted and put side by side.
    Built in notebook 11.
    """
    found = [(lora_factors(state), weight) for state, weight in weighted]
    layers = dict.fromkeys(layer for state, _ in found for layer in state)
    mixed = {}
    for layer in layers:
        parts = [(*state[layer], weight) for state, weight in found if layer in state]
        mixed[f"{layer}.lora_A.weight"] = torch.cat([A for A, _, _ in parts])  # (r1 + r2, C_in)
        mixed[f"{layer}.lora_B.weight"] = torch.cat([weight * B for _, B, weight in parts], dim=1)  # (C_out, r1 + r2)
    return mixed
