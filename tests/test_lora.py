"""LoRA: nothing changes at first, only the branch learns, merging and swapping are exact, bad input gets a sentence."""

import pytest
import torch
from torch import nn

from course_utils import checkpoints, cli
from course_utils.app.generate import draw_pictures
from course_utils.errors import CheckpointError, InputError
from course_utils.finetune.lora import (
    ALL_TARGETS,
    ATTENTION,
    LoRAConv2d,
    LoRALinear,
    inject,
    lora_factors,
    lora_layers,
    lora_parameters,
    lora_state,
    merge,
    set_adapter,
    unload,
    unmerge,
    weighted_sum,
)
from course_utils.finetune.prefix import Prefix, Prefixed
from course_utils.generator.latent_unet import LatentUNet
from course_utils.interop.lora_files import lora_adapter, read_lora, save_lora, unet_folder
from course_utils.systems.stable_diffusion import make_unet


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tiny():
    torch.manual_seed(0)
    return LatentUNet(4, 4, (8, 16), 1, (False, True), num_heads=2, groups=4, context_dim=12, pool_heads=2).eval()


CALL = random(2, 4, 8, 8), torch.tensor([3, 700]), random(2, 5, 12, seed=1)


@torch.no_grad()
def answer(network):
    return network(*CALL)


def made_up(network, rank=3, seed=5, targets=ALL_TARGETS):
    """A random state for a network, as if it had been trained; the network stays as it was."""
    inject(network, targets, rank)
    state = {k: 0.3 * random(*v.shape, seed=seed + i) for i, (k, v) in enumerate(lora_state(network).items())}
    unload(network)
    return state


# ------------------------------------------------------------------ one layer
@pytest.mark.parametrize(
    ("base", "kind", "x"),
    [
        (nn.Linear(6, 4), LoRALinear, random(3, 5, 6)),
        (nn.Linear(6, 4, bias=False), LoRALinear, random(3, 6)),
        (nn.Conv2d(4, 6, 3, padding=1), LoRAConv2d, random(2, 4, 7, 7)),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1), LoRAConv2d, random(2, 4, 7, 7)),
        (nn.Conv2d(4, 6, 1), LoRAConv2d, random(2, 4, 7, 7)),
    ],
)
def test_a_layer_is_base_plus_lora(base, kind, x):
    layer = kind(base, rank=2, alpha=5)
    assert torch.equal(layer(x), base(x)), "B is zero at first: nothing changes, to the bit"
    nn.init.normal_(layer.lora_B.weight)
    expected = base(x) + 5 / 2 * layer.lora_B(layer.lora_A(x))
    assert torch.allclose(layer(x), expected, atol=1e-6) and not torch.allclose(layer(x), base(x), atol=1e-2)
    moved = base.weight + layer.delta()
    plain = x @ moved.T if kind is LoRALinear else nn.functional.conv2d(x, moved, None, base.stride, base.padding)
    plain = plain + (0 if base.bias is None else base.bias.view(-1, *[1] * (x.ndim - 2 if kind is LoRAConv2d else 0)))
    assert torch.allclose(layer(x), plain, atol=1e-5)
    assert torch.linalg.matrix_rank(layer.delta().flatten(1)) == 2


def test_a_is_gaussian_of_size_one_over_the_rank_and_comes_from_the_generator():
    layers = [LoRALinear(nn.Linear(4000, 4), 8, None, torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    a, b, c = (layer.lora_A.weight for layer in layers)
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert (a.std() - 1 / 8).abs() < 2e-3 and a.mean().abs() < 2e-3
    assert layers[0].scale == 1, "alpha is the rank when nothing is said"


def test_a_rank_below_one_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        LoRALinear(nn.Linear(4, 4), 0)


# ------------------------------------------------------------------ a network
def test_inject_changes_no_answer_and_only_the_lora_learns():
    network = tiny()
    before, count = answer(network), sum(p.numel() for p in network.parameters())
    names = inject(network, rank=2, generator=torch.Generator().manual_seed(0))
    assert len(names) == 4 * 2 * 4 and names[0] == "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    assert torch.equal(answer(network), before)
    learning = {name for name, p in network.named_parameters() if p.requires_grad}
    assert learning == set(lora_state(network)) and len(lora_parameters(network)) == len(learning)
    frozen = {k: v.clone() for k, v in network.state_dict().items() if ".lora_" not in k}
    assert sum(v.numel() for v in frozen.values()) == count
    optimizer = torch.optim.AdamW(lora_parameters(network), 1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        (network(*CALL) - 1).square().mean().backward()
        optimizer.step()
    assert not torch.equal(answer(network), before)
    assert all(torch.equal(network.state_dict()[k], v) for k, v in frozen.items())
    assert torch.equal(answer(unload(network)), before) and not lora_layers(network)


def test_counts_on_the_shipped_network():
    """2 d r numbers for each square matrix: LoRA's |Theta|, and no layer forgotten."""
    network = make_unet()
    for targets, layers, for_each_rank in ((ATTENTION, 32, 6_624), (ALL_TARGETS, 81, 43_904)):
        for rank in (1, 8):
            assert len(inject(network, targets, rank)) == layers
            assert sum(p.numel() for p in lora_parameters(network)) == for_each_rank * rank
            unload(network)


def test_one_target_may_be_a_string_and_only_whole_names_count():
    network = tiny()
    assert len(inject(network, "to_q")) == 8
    unload(network)
    assert all(name.endswith(".conv1") for name in inject(network, ("conv1",), 2))
    with pytest.raises(ValueError, match="branches already"):
        inject(network)


@pytest.mark.parametrize("targets", ["o_q", ("to_q", "nothing"), "norm1", ""])
def test_a_target_that_fits_nothing_is_told_and_nothing_changes(targets):
    network = tiny()
    with pytest.raises(ValueError, match="no linear layer or convolution of this network is called"):
        inject(network, targets)
    assert not lora_layers(network) and all(p.requires_grad for p in network.parameters())


# ------------------------------------------------------------------ merging
def test_merge_gives_the_same_answers_and_unmerge_brings_the_weights_back():
    network = tiny()
    plain = {k: v.clone() for k, v in network.state_dict().items()}
    set_adapter(network, made_up(network), alpha=5)
    before = answer(network)
    merged = answer(merge(merge(network)))  # the second time nothing is added
    assert torch.allclose(merged, before, atol=1e-5) and not torch.equal(merged, before)
    with torch.no_grad():
        for layer in lora_layers(network).values():
            layer.lora_B.weight += 100  # silent: while merged, the branch is not run
        assert torch.equal(answer(network), merged)
        for layer in lora_layers(network).values():
            layer.lora_B.weight -= 100
    assert torch.allclose(answer(unmerge(unmerge(network))), before, atol=1e-3)
    for k, v in unload(network).state_dict().items():
        assert torch.allclose(v, plain[k], atol=1e-4), k


def test_remove_after_merge_keeps_what_was_learned():
    network, other = tiny(), tiny()
    set_adapter(network, made_up(network))
    before = answer(network)
    unload(merge(network))
    other.load_state_dict(network.state_dict())  # the plain network's names
    assert torch.allclose(answer(other), before, atol=1e-5)


# ------------------------------------------------------------------ exchanging
def test_swapping_is_exact_and_fits_any_rank():
    network = tiny()
    plain, states = answer(network), [made_up(network, 3, 5), made_up(network, 1, 99, ATTENTION)]
    answers = [answer(network) for state in states if set_adapter(network, state, 2)]
    assert not torch.allclose(answers[0], answers[1], atol=1e-2)
    for _ in range(3):
        for state, expected in zip(states, answers):
            set_adapter(network, state, 2)
            assert torch.equal(answer(network), expected)
            assert {k: v.tolist() for k, v in lora_state(network).items()} == {k: v.tolist() for k, v in state.items()}
    assert torch.equal(answer(unload(network)), plain)


def test_swapping_subtracts_what_is_merged():
    network = tiny()
    plain, first, second = answer(network), made_up(network), made_up(network, seed=50)
    set_adapter(network, first)
    merge(network)
    set_adapter(network, second)
    assert torch.allclose(answer(unload(network)), plain, atol=1e-4)


def test_an_adapter_that_was_set_can_be_trained_further():
    network = tiny()
    set_adapter(network, made_up(network, targets=ATTENTION))
    network(*CALL).mean().backward()
    assert {n for n, p in network.named_parameters() if p.grad is not None} == set(lora_state(network))


def test_mix_is_the_weighted_sum():
    network = tiny()
    a, b = made_up(network, 3, 5), made_up(network, 2, 77, ATTENTION)
    deltas = []
    for state in (a, b, weighted_sum([(a, 0.7), (b, -0.4)])):
        set_adapter(network, state)
        deltas.append({name: layer.delta() for name, layer in lora_layers(network).items()})
    for name, both in deltas[2].items():
        expected = 0.7 * deltas[0][name] - 0.4 * deltas[1].get(name, torch.zeros(()))
        assert torch.allclose(both, expected, atol=1e-5), name
    assert {len(A) for A, _ in lora_factors(weighted_sum([(a, 1), (b, 1)])).values()} == {3, 5}
    assert all(torch.equal(v, a[k]) for k, v in weighted_sum([(a, 1.0)]).items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda s: (
                s | {"up_blocks.9.to_q.lora_A.weight": random(3, 4), "up_blocks.9.to_q.lora_B.weight": random(4, 3)}
            ),
            "another network: here is no up_blocks.9.to_q",
        ),
        (lambda s: {k.replace("conv1", "norm1"): v for k, v in s.items()}, "is no linear layer or convolution"),
        (
            lambda s: {k: v[..., :1] if "lora_A" in k else v for k, v in s.items()},
            "another network: .* has other shapes",
        ),
        (lambda s: {k: v for k, v in s.items() if "lora_A" in k}, "no LoRA state"),
        (lambda s: {}, "no LoRA state"),
        (lambda s: {f"unet.{k}": v for k, v in s.items()}, "another network: here is no unet"),
        (lambda s: {k: v[:2] if "lora_A" in k else v for k, v in s.items()}, "do not fit"),
    ],
)
def test_a_state_of_another_network_is_refused_and_nothing_changes(change, words):
    network = tiny()
    state = made_up(network)
    set_adapter(network, state)
    before = answer(network)
    with pytest.raises(ValueError, match=words):
        set_adapter(network, change(state))
    assert torch.equal(answer(network), before)


# ------------------------------------------------------------------ the prefix
def test_a_prefix_stands_before_the_context_and_reaches_attention_and_pooled_text():
    network, prefix = tiny(), Prefix(3, 12, generator=torch.Generator().manual_seed(0))
    zt, t, context = CALL
    longer = prefix(context)
    assert longer.shape == (2, 8, 12) and torch.equal(longer[:, 3:], context)
    assert torch.equal(longer[0, :3], prefix.tokens) and torch.equal(longer[1, :3], prefix.tokens)
    with torch.no_grad():
        prefixed = Prefixed(network, prefix)(zt, t, context, torch.ones(2, 5, dtype=torch.bool))
        assert torch.equal(prefixed, network(zt, t, longer)) and not torch.allclose(prefixed, network(*CALL), atol=1e-4)
    network.requires_grad_(False)
    whole = Prefixed(network, prefix)
    whole(*CALL).mean().backward()
    assert [name for name, p in whole.named_parameters() if p.grad is not None] == ["prefix.tokens"]


def test_a_prefix_may_begin_as_given_vectors():
    start = random(2, 12)
    prefix = Prefix(2, 12, start)
    assert torch.equal(prefix.tokens, start) and prefix.tokens is not start
    with pytest.raises(ValueError, match="2 vectors of 12 numbers"):
        Prefix(2, 12, random(3, 12))


# ------------------------------------------------------------------ `course draw --lora`
def test_a_lora_changes_the_drawing_and_only_stable_diffusion_takes_one(tmp_path):
    quick = {"prompt": "pink butterfly", "steps": 2, "count": 1, "device": "cpu"}
    unet = make_unet()
    inject(unet, ATTENTION, 2)
    state = {
        key: 0.2 * torch.randn(value.shape, generator=torch.Generator().manual_seed(0))
        for key, value in lora_state(unet).items()
    }
    path = save_lora(tmp_path / "any.safetensors", state)
    plain, changed = (draw_pictures(lora=lora, **quick).astype(int) for lora in (None, path))
    assert abs(plain - changed).mean() > 2
    with pytest.raises(InputError, match="stable-diffusion and nothing else"):
        draw_pictures("text-pixel", lora=path, **quick)
    with pytest.raises(CheckpointError, match="there is no"):
        draw_pictures(lora=tmp_path / "nothing.safetensors", **quick)


# ------------------------------------------------------------------ which LoRA is meant
def keep(folder, name, state, **card):
    """Save a LoRA as a checkpoint with its card; returns its file."""
    path = save_lora(folder / f"{name}.safetensors", state, dtype=torch.float32)
    checkpoints.write_card(path, {"name": name, "sha256": checkpoints.sha256(path), **card})
    return path


@pytest.fixture
def places(tmp_path, monkeypatch):
    """The shipped checkpoints and a folder of one's own, each with a U-Net and a LoRA "car" that belongs to it."""
    home, own = tmp_path / "shipped", tmp_path / "own"
    monkeypatch.setattr(checkpoints, "CHECKPOINT_DIR", home)
    monkeypatch.chdir(tmp_path)
    for seed, folder in enumerate((home, own)):
        unet = checkpoints.save("stable-diffusion", {"w": torch.full((2,), float(seed))}, {}, folder=folder)
        parents = {"stable-diffusion": checkpoints.sha256(unet)}
        keep(folder, "car", made_up(tiny(), seed=500 * seed), parents=parents)
    return home, own


def adapted(lora, folder=None):
    """What a network answers that took a LoRA as `course draw --lora LORA --from FOLDER` gives it one."""
    network = tiny()
    lora_adapter(lora, folder)(network)
    return answer(network)


def answer_with(*states):
    """What a network answers with the sum of some states."""
    network = tiny()
    set_adapter(network, weighted_sum([(state, 1.0) for state in states]))
    return answer(merge(network))


def test_a_name_means_the_lora_of_the_folder_that_was_asked_for(places):
    home, own = places
    for folder, place in ((None, home), (own, own), (home, home)):
        assert torch.equal(adapted("car", folder), answer_with(read_lora(place / "car.safetensors")[0]))
    assert not torch.allclose(adapted("car"), adapted("car", own), atol=1e-2)


def test_a_folder_here_does_not_hide_the_lora_of_its_name(places):
    home, _ = places
    here = save_lora("car", made_up(tiny(), seed=77), form="peft", dtype=torch.float32)
    assert torch.equal(adapted("car"), answer_with(read_lora(home / "car.safetensors")[0]))
    for path in ("./car", here.resolve(), f"{here}/"):
        assert torch.equal(adapted(path), answer_with(read_lora(here)[0]))


def test_a_folder_with_nothing_but_the_lora_takes_the_shipped_network(places):
    home, own = places
    for path in own.glob("stable-diffusion.*"):
        path.unlink()
    shipped = {"stable-diffusion": checkpoints.card("stable-diffusion")["sha256"]}
    path = keep(own, "car", made_up(tiny(), seed=3), parents=shipped)
    assert unet_folder("car", own) is None and unet_folder(str(path), own) == own
    assert torch.equal(adapted("car", own), answer_with(read_lora(path)[0]))


def test_a_lora_of_another_network_is_refused_by_name_and_by_path(places):
    home, own = places
    keep(home, "bus", made_up(tiny()), parents={"stable-diffusion": checkpoints.card("stable-diffusion")["sha256"]})
    for lora, folder in ((str(home / "car.safetensors"), own), (own / "car.safetensors", None), ("bus", own)):
        with pytest.raises(CheckpointError, match="belongs to another stable-diffusion.safetensors than") as error:
            adapted(lora, folder)
        assert "\n" not in str(error.value)
    (own / "car.json").write_text('{"description": "as other programs write them"}')
    adapted(own / "car.safetensors")


def test_several_loras_add_up_and_none_counts_twice(places):
    home, _ = places
    states = made_up(tiny(), 3, 5), made_up(tiny(), 2, 77, ATTENTION)
    paths = [save_lora(f"{i}.safetensors", state, dtype=torch.float32) for i, state in enumerate(states)]
    both = adapted([str(path) for path in paths])
    assert torch.allclose(both, answer_with(*states), atol=1e-5)
    assert torch.allclose(both, adapted(paths[::-1]), atol=1e-4)
    assert not torch.allclose(both, adapted(paths[0]), atol=1e-2)
    for twice in ([paths[0], paths[0]], ["car", home / "car.safetensors"]):
        with pytest.raises(InputError, match="named twice"):
            lora_adapter(twice)


# ------------------------------------------------------------------ files that would draw something else
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_lora_that_is_no_number_is_refused(tmp_path, capsys, value):
    unet = make_unet()
    inject(unet, ATTENTION, 2)
    state = lora_state(unet)
    next(iter(state.values()))[0, 0] = value
    path = save_lora(tmp_path / "broken.safetensors", state)
    with pytest.raises(CheckpointError, match="holds NaN or infinity, in "):
        read_lora(path)
    out = tmp_path / "x.png"
    drawing = ["draw", "cat", "--lora", str(path), "--steps", "1", "--count", "1", "--device", "cpu", "--out", str(out)]
    assert cli.main(drawing) == 2 and "holds NaN or infinity" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("alpha", [float("nan"), float("inf")])
def test_an_alpha_that_is_no_number_is_refused(tmp_path, alpha):
    path = save_lora(tmp_path / "kohya.safetensors", made_up(tiny()), alpha, form="kohya", dtype=torch.float32)
    with pytest.raises(CheckpointError, match="no number|NaN"):
        read_lora(path)


def test_what_peft_wrote_needs_its_configuration(tmp_path):
    state = made_up(tiny(), 3)
    folder = save_lora(tmp_path / "peft", state, alpha=12, form="peft", dtype=torch.float32)
    expected = read_lora(folder)[0]
    renamed = (folder / "adapter_model.safetensors").rename(folder / "my_style.safetensors")
    found = read_lora(renamed)[0]  # another name, and the configuration still beside it
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert any(not torch.equal(value, state[key]) for key, value in expected.items()), "α / r is 4"
    (folder / "adapter_config.json").unlink()
    with pytest.raises(CheckpointError, match="adapter_config.json: put that file beside it"):
        read_lora(renamed)
    renamed.rename(folder / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="adapter_config.json: put that file beside it"):
        read_lora(folder)
    (folder / "adapter_config.json").write_text('{"lora_alpha": 12, "init_lora_weights": "pissa_niter_4"}')
    with pytest.raises(CheckpointError, match="changes the frozen weights too"):
        read_lora(folder)


def test_a_pointer_of_git_lfs_is_called_one(tmp_path):
    (tmp_path / "x.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n")
    with pytest.raises(CheckpointError, match="git-LFS pointer.*git lfs pull"):
        read_lora(tmp_path / "x.safetensors")
