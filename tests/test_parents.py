"""Checkpoints know what they build on, are trained in that order, and none is lost or spoilt on the way."""

import json
import shlex
import shutil
import stat
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from course_utils import checkpoints, cli
from course_utils.app import train
from course_utils.errors import CheckpointError
from course_utils.recipes import catalog
from course_utils.recipes.catalog import check_required, find, in_order, recipes
from course_utils.systems.stable_diffusion import open_stable_diffusion


def recard(path, **changes):
    """Change the card beside a checkpoint."""
    card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    path.with_suffix(".json").write_text(json.dumps({**card, **changes}), encoding="utf-8")


# ------------------------------------------------------------------ parents
def test_the_shipped_ones_belong_together():
    for name in checkpoints.available():
        parents = checkpoints.card(name).get("parents", {})
        assert set(parents) == set(find(name).requires), name
        assert all(checkpoints.card(parent)["sha256"] == digest for parent, digest in parents.items()), name


def test_the_very_parent_is_found_wherever_it_lies(tmp_path):
    other = checkpoints.save("vae", {"w": torch.ones(2)}, {}, folder=tmp_path)
    child = checkpoints.save(
        "child", {"w": torch.ones(2)}, {"parents": {"vae": checkpoints.sha256(other)}}, folder=tmp_path
    )
    assert checkpoints.parent_folder("child", "vae", tmp_path) == tmp_path
    recard(child, parents={"vae": checkpoints.card("vae")["sha256"]})  # one beside it, but it learned with the shipped
    assert checkpoints.parent_folder("child", "vae", tmp_path) == checkpoints.CHECKPOINT_DIR
    recard(child, parents={})  # of before cards had parents
    assert checkpoints.parent_folder("child", "vae", tmp_path) == tmp_path


def test_a_system_whose_parts_do_not_fit_is_not_opened(tmp_path):
    for ending in ("json", "safetensors"):
        shutil.copy(checkpoints.CHECKPOINT_DIR / f"stable-diffusion.{ending}", tmp_path)
    open_stable_diffusion(folder=tmp_path)
    recard(tmp_path / "stable-diffusion.safetensors", parents={"vae": "0" * 64})
    with pytest.raises(CheckpointError, match="belongs to another vae") as error:
        open_stable_diffusion(folder=tmp_path)
    said = str(error.value)
    assert str(tmp_path / "stable-diffusion.safetensors") in said and "course train stable-diffusion" in said
    assert str(checkpoints.CHECKPOINT_DIR / "vae.safetensors") in said and "\n" not in said


def test_the_scale_is_in_the_card(tmp_path):
    checkpoints.save("vae", {"w": torch.ones(2)}, {"scaling_factor": 0.2}, folder=tmp_path)
    assert checkpoints.scaling_factor(tmp_path) == 0.2
    assert open_stable_diffusion().scaling_factor == checkpoints.scaling_factor() == 0.354
    checkpoints.save("vae", {"w": torch.ones(2)}, {}, folder=tmp_path)
    with pytest.raises(CheckpointError, match="no scaling_factor.*course train vae"):
        checkpoints.scaling_factor(tmp_path)


# ------------------------------------------------------------------ the order of training
def test_every_recipe_comes_after_what_it_builds_on():
    order = [recipe.name for recipe in in_order()]
    assert sorted(order) == sorted(recipes())
    for recipe in recipes().values():
        assert all(order.index(name) < order.index(recipe.name) for name in recipe.requires), recipe.name


def test_what_is_missing_or_does_not_fit_is_said_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "CHECKPOINT_DIR", tmp_path)
    with pytest.raises(CheckpointError, match="no checkpoint of vae nor of text-pixel: first `course train vae"):
        check_required(find("stable-diffusion"))
    for name in ("vae", "text-pixel"):
        checkpoints.save(name, {"w": torch.ones(2)}, {}, folder=tmp_path)
    check_required(find("stable-diffusion"))
    checkpoints.save("stable-diffusion", {"w": torch.ones(2)}, {"parents": {"vae": "0" * 64}}, folder=tmp_path)
    with pytest.raises(CheckpointError, match="belongs to another vae"):
        check_required(find("inpaint"))


# ------------------------------------------------------------------ nothing is lost
ARGS = {
    "name": "tiny",
    "all": False,
    "minutes": 0.1,
    "seed": 3,
    "device": None,
    "resume": False,
    "restart": False,
    "from_shipped": False,
    "replace": False,
}


def arguments(**changes):
    """Parsed arguments of `course train`."""
    return SimpleNamespace(**{**ARGS, **changes})


def saved_run(folder, seconds):
    """A run of a minute that has used some of its seconds."""
    progress = {"step": 1200, "seconds": seconds, "budget": 60.0, "before": {"parents": {"vae": "0" * 64}}}
    path = folder / "noise-predictor.run.safetensors"
    save_file({"w": torch.ones(1)}, path, {"progress": json.dumps(progress)})
    return path


def test_an_unfinished_run_is_not_thrown_away(tmp_path, capsys):
    path = saved_run(tmp_path, 30.0)
    before = path.read_bytes()
    assert cli.main(["train", "noise-predictor", "--minutes", "0.01", "--run-dir", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "unfinished run of 1,200 steps" in said and "--resume" in said and "--restart" in said
    assert path.read_bytes() == before
    train.refuse_to_discard(path, arguments(restart=True))
    train.refuse_to_discard(path, arguments(resume=True))
    train.refuse_to_discard(saved_run(tmp_path, 59.9), arguments())  # its time is used up, its checkpoint saved
    path.write_bytes(b"no run at all")
    train.refuse_to_discard(path, arguments())


def test_a_run_begun_with_other_parents_does_not_go_on(tmp_path):
    path = saved_run(tmp_path, 30.0)
    with pytest.raises(ValueError, match="begun with another vae.safetensors"):
        train.beginning(find("stable-diffusion"), arguments(resume=True), path)
    fresh = train.beginning(find("stable-diffusion"), arguments(), None)
    assert fresh["parents"]["vae"] == checkpoints.card("vae")["sha256"] and "steps" not in fresh


def test_the_command_that_goes_on_can_be_pasted(tmp_path):
    folder = tmp_path / "my runs; $HOME"
    args = arguments(run_dir=folder, seed=7, from_shipped=True, minutes=0.123456789)
    words = shlex.split(train.resume_command(args))
    assert words[:2] == ["course", "train"]
    again = cli.parser().parse_args(words[1:])
    assert (again.run_dir, again.seed, again.from_shipped, again.resume) == (folder, 7, True, True)
    assert again.minutes == args.minutes and again.name == "tiny" and not again.replace
    everything = cli.parser().parse_args(shlex.split(train.resume_command(arguments(name=None, run_dir=folder)))[1:])
    assert everything.name is None or everything.all


def test_a_checkpoint_stays_unless_replace_is_said(tmp_path, monkeypatch, capsys):
    home, runs = tmp_path / "shipped", tmp_path / "runs"
    monkeypatch.setattr(checkpoints, "CHECKPOINT_DIR", home)
    recipe = SimpleNamespace(name="tiny", lora=False, measure=lambda network: {"scaling_factor": 0.5}, requires=())
    net = torch.nn.Linear(2, 2)
    before = {"steps": 100, "pictures": 800, "minutes": 5.0, "history": "", "parents": {"vae": "1"}}
    state = SimpleNamespace(step=10, pictures=80, seconds=60.0, loss=0.5, ema=net, curve=[], before=None)
    train.save_checkpoint(recipe, state, torch.device("cpu"), arguments(run_dir=runs))
    first = (home / "tiny.safetensors").read_bytes()
    net.weight.data += 1
    state.before = before  # as with --continue, or a resumed run that began so
    train.save_checkpoint(recipe, state, torch.device("cpu"), arguments(run_dir=runs, from_shipped=True))
    assert "it stays" in capsys.readouterr().out and (home / "tiny.safetensors").read_bytes() == first
    card = checkpoints.card("tiny", runs)
    assert (card["steps"], card["pictures"], card["minutes"]) == (110, 880, 6.0)
    assert card["history"] == "5 minutes, and 1 more from there" and card["parents"] == {"vae": "1"}
    assert card["scaling_factor"] == 0.5
    train.save_checkpoint(recipe, state, torch.device("cpu"), arguments(run_dir=runs, replace=True))
    assert (home / "tiny.safetensors").read_bytes() != first


# ------------------------------------------------------------------ whole and readable
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_neither_saved_nor_opened(tmp_path, value):
    net = torch.nn.Linear(2, 2)
    path = checkpoints.save("net", net, {}, folder=tmp_path)
    before = path.read_bytes()
    net.bias.data[1] = value
    with pytest.raises(CheckpointError, match="bias holds NaN or infinity"):
        checkpoints.save("net", net, {}, folder=tmp_path)
    assert path.read_bytes() == before
    save_file(net.state_dict(), path)
    recard(path, sha256=checkpoints.sha256(path))
    with pytest.raises(CheckpointError, match="NaN or infinity, in bias"):
        checkpoints.load("net", torch.nn.Linear(2, 2), folder=tmp_path)


def test_what_half_precision_cannot_hold_stays_in_single(tmp_path):
    weights = {"small": torch.tensor([1.5]), "large": torch.tensor([1e5, 2.0]), "count": torch.tensor([70_000])}
    saved = load_file(checkpoints.save("net", weights, {}, folder=tmp_path))
    assert (saved["small"].dtype, saved["large"].dtype) == (torch.float16, torch.float32)
    assert torch.equal(saved["large"], weights["large"]) and torch.equal(saved["count"], weights["count"])


def test_others_may_read_what_the_umask_lets_them(tmp_path):
    (tmp_path / "plain").touch()
    path = checkpoints.save("net", {"w": torch.ones(2)}, {}, folder=tmp_path)
    modes = {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "plain", path, path.with_suffix(".json"))}
    assert len(modes) == 1, [oct(mode) for mode in modes]
    assert not list(tmp_path.glob("*.part"))


def test_a_pointer_of_git_lfs_is_called_one(tmp_path):
    path = checkpoints.save("net", {"w": torch.ones(2)}, {}, folder=tmp_path)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n")
    with pytest.raises(CheckpointError, match="git-LFS pointer.*git lfs pull"):
        checkpoints.check("net", tmp_path)


def test_the_catalog_lists_recipes_only():
    assert "latent_base" not in catalog.recipes() and "catalog" not in catalog.recipes()
