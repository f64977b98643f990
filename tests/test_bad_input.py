"""Bad input gets one clear sentence that says what to do, no traceback, and nothing is lost."""

import errno
import json
import resource
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.test_cli import course

DRAW = ("draw", "--device", "cpu")


def one_sentence(result, *words, status=2):
    """The process ended with `status`, and one line on stderr that holds the words."""
    lines = result.stderr.strip().splitlines()
    assert result.returncode == status, result.stderr
    assert len(lines) == 1 and lines[0].startswith("course: "), result.stderr
    for word in words:
        assert word in lines[0], (word, lines[0])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("draw", "--steps", 0), ("steps", "from 1 to 1000", "0")),
        (("draw", "--steps", 1001), ("steps", "1001")),
        (("draw", "--steps", "many"), ("--steps", "'many'", "--help")),
        (("draw", "--count", 0), ("count", "from 1 to 64")),
        (("draw", "--count", 65), ("count", "65")),
        (("draw", "--seed", -1), ("seed", "from 0", "-1")),
        (("draw", "--seed", 2**32), ("seed",)),
        (("draw", "--guidance", -1), ("guidance", "from 0 to 20", "-1")),
        (("draw", "--guidance", "nan"), ("guidance", "nan")),
        (("draw", "--system", "dalle9"), ("system", "'dalle9'", "noise-predictor")),
        (("draw", ""), ("prompt is empty",)),
        (("draw", "x" * 10_000), ("10000 characters", "at most 1000")),
        (("draw", "cat", "--negative", " "), ("prompt is empty",)),
        (("draw", "--system", "text-pixel"), ("text-pixel", "give it one")),
        (("evaluate", "noise-predictor"), ("'noise-predictor'", "text-pixel")),
        (("evaluate", "--prompts", 0), ("prompts", "from 1 to 400")),
        (("evaluate", "--steps", 0), ("steps", "from 1 to 1000")),
        (("draw", "--out", "a.gif"), ("a.gif", ".png")),
        (("draw", "--out", "no/such/folder/a.png"), ("no folder", "make it")),
        (("draw", "--from", "no-such-folder", "--device", "cpu"), ("no checkpoint", "noise-predictor")),
        (("draw", "--device", "tpu"), ("tpu", "cuda, mps, cpu")),
        (("train", "noise-predicter", "--minutes", 1), ("noise-predicter", "noise-predictor")),
        (("train", "../../evil", "--minutes", 1), ("../../evil",)),
        (("train", "noise-predictor", "--minutes", 0), ("minutes", "above 0")),
        (("train", "noise-predictor", "--minutes", "inf"), ("minutes", "inf")),
        (("train", "noise-predictor", "--minutes", 20000), ("minutes", "10080")),
        (("train", "noise-predictor"), ("--minutes",)),
        (("train", "--minutes", 1), ("--all",)),
        (("train", "noise-predictor", "--all", "--minutes", 1), ("--all",)),
        (("train", "noise-predictor", "--minutes", 1, "--device", "cuda:99"), ("cuda",)),
        (("paint",), ("paint", "draw")),
        ((), ("COMMAND",)),
    ],
)
def test_wrong_arguments(arguments, words, tmp_path, monkeypatch, capsys):
    from course_utils import cli

    monkeypatch.chdir(tmp_path)
    try:
        status = cli.main([str(argument) for argument in arguments])
    except SystemExit as leaving:  # argparse leaves by itself
        status = leaving.code
    one_sentence(SimpleNamespace(returncode=status, stderr=capsys.readouterr().err), *words)
    assert not list(tmp_path.iterdir()), "nothing was written"


def test_a_wrong_argument_in_a_process_of_its_own(tmp_path):
    one_sentence(course("draw", "--steps", 0, cwd=tmp_path), "steps", "from 1 to 1000")


@pytest.mark.parametrize("value", [None, 3, b"cat", ["cat"]])
def test_a_prompt_that_is_no_text(value):
    from course_utils.errors import InputError, prompt_text

    with pytest.raises(InputError, match="a prompt is text"):
        prompt_text(value)


@pytest.mark.parametrize("value", [True, 2.0, "2", None])
def test_numbers_that_are_none(value):
    from course_utils.errors import InputError, integer, number

    with pytest.raises(InputError, match="steps must be a whole number"):
        integer("steps", value, (1, 10))
    with pytest.raises(InputError, match="guidance must be a number"):
        number("guidance", [value], (0, 20))


def damage(path: Path, how: str) -> None:
    """Remove, truncate or alter a file."""
    if how == "removed":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


def save_untrained(folder: Path) -> None:
    """Save a network without training for each recipe that has no checkpoint yet.

    The doctor compares files with their cards and opens none, so a small network does.
    """
    from course_utils.checkpoints import available, save
    from course_utils.recipes.catalog import recipes

    for name in recipes().keys() - set(available(folder)):
        save(name, torch.nn.Linear(64, 64), {"minutes": 0, "hardware": "none"}, folder=folder)


def test_doctor_with_damaged_files(data_copy):
    save_untrained(data_copy / "checkpoints")
    before = course("doctor", data=data_copy)
    assert before.returncode == 0 and "All is ready." in before.stdout, before.stdout
    damaged = (data_copy / "emoji_64.parquet", data_copy / "checkpoints" / "noise-predictor.safetensors")
    whole = [path.read_bytes() for path in damaged]
    for how in ("removed", "truncated", "altered"):
        for path, content in zip(damaged, whole, strict=True):
            path.write_bytes(content)
            damage(path, how)
        after = course("doctor", data=data_copy)
        lines = after.stdout.splitlines()
        wrong = [i for i, line in enumerate(lines) if line.startswith("MISSING")]
        assert after.returncode == 1 and "2 of" in lines[-1] and "Traceback" not in after.stderr
        assert "emoji_64.parquet" in lines[wrong[0]] and "checkpoint noise-predictor" in lines[wrong[1]]
        assert all("git checkout" in lines[i + 1] for i in wrong), "each line says what to do"
    one_sentence(course(*DRAW, "--out", data_copy / "x.png", data=data_copy), "noise-predictor", "git checkout")
    train = course(
        "train",
        "noise-predictor",
        "--device",
        "cpu",
        "--minutes",
        0.01,
        "--run-dir",
        data_copy / "runs",
        data=data_copy,
    )
    assert train.returncode == 2 and "emoji_64.parquet" in train.stderr and "Traceback" not in train.stderr


def test_doctor_without_data_at_all(tmp_path):
    result = course("doctor", data=tmp_path)
    assert result.returncode == 1 and "SHA256SUMS" in result.stdout and "Traceback" not in result.stderr


def test_doctor_names_a_device_that_is_absent():
    result = course("doctor", COURSE_DEVICE="tpu")
    assert result.returncode == 1 and "unknown device 'tpu'" in result.stdout


def test_a_card_or_a_run_that_is_damaged(data_copy, tmp_path):
    folder = data_copy / "checkpoints"
    folder.mkdir(exist_ok=True)
    (folder / "noise-predictor.json").write_text("{not json", encoding="utf-8")
    one_sentence(course(*DRAW, "--out", tmp_path / "x.png", data=data_copy), "noise-predictor", "git checkout")
    (tmp_path / "noise-predictor.run.safetensors").write_bytes(b"not a run")
    result = course("train", "noise-predictor", "--minutes", 1, "--resume", "--run-dir", tmp_path, data=data_copy)
    assert result.returncode == 2 and "cannot be resumed" in result.stderr and "Traceback" not in result.stderr


def test_weights_of_another_network(tmp_path):
    from course_utils.checkpoints import load, save
    from course_utils.errors import CheckpointError
    from course_utils.recipes import noise_predictor

    save("noise-predictor", torch.nn.Linear(2, 2), {}, folder=tmp_path)
    with pytest.raises(CheckpointError, match="another network"):
        load("noise-predictor", noise_predictor.model(), folder=tmp_path)


def test_a_pickle_is_not_opened(tmp_path):
    from course_utils.checkpoints import load
    from course_utils.errors import CheckpointError

    torch.save({"weight": torch.zeros(1)}, tmp_path / "evil.safetensors")
    (tmp_path / "evil.json").write_text(json.dumps({"sha256": "0" * 64}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="altered"):
        load("evil", torch.nn.Linear(1, 1), folder=tmp_path)


def run_python(code: str, *arguments, limit: int | None = None) -> subprocess.CompletedProcess:
    """Run a script in a process of its own, which may write files of at most `limit` bytes."""

    def few_bytes():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a write fails with "File too large", like on a full disk

    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        preexec_fn=few_bytes if limit else None,
        timeout=120,
    )


SAVE = """
    import sys, torch
    from course_utils.checkpoints import save
    from course_utils.errors import CheckpointError
    torch.manual_seed(int(sys.argv[2]))
    try:
        for i in range(int(sys.argv[3])):
            save("net", {"w": torch.randn(100_000)}, {"writer": sys.argv[2]}, folder=sys.argv[1])
    except CheckpointError as error:
        print(error)
        sys.exit(3)
"""


def test_a_full_disk_leaves_the_old_checkpoint_whole(tmp_path):
    from course_utils.checkpoints import verify

    assert run_python(SAVE, tmp_path, 1, 1).returncode == 0
    before = (tmp_path / "net.safetensors").read_bytes()
    full = run_python(SAVE, tmp_path, 2, 1, limit=50_000)
    assert full.returncode == 3 and "disk is full" in full.stdout and "free some space" in full.stdout, full.stderr
    assert (tmp_path / "net.safetensors").read_bytes() == before
    assert verify(tmp_path) == [("net.safetensors", "ok")]
    assert not list(tmp_path.glob("*.part"))


def test_a_full_disk_while_a_picture_is_written(tmp_path, monkeypatch, capsys):
    from course_utils import cli
    from course_utils.app import generate

    def no_space(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    import numpy as np

    monkeypatch.setattr(generate, "draw_pictures", lambda *a, **k: np.zeros((1, 4, 4, 3), np.uint8))
    monkeypatch.setattr("PIL.Image.Image.save", no_space)
    (tmp_path / "x.png").write_bytes(b"before")
    assert cli.main(["draw", "--count", "1", "--out", str(tmp_path / "x.png")]) == 2
    assert "the disk is full" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"] and (tmp_path / "x.png").read_bytes() == b"before"


def test_two_processes_saving_the_same_file(tmp_path):
    from course_utils.checkpoints import card, verify

    writers = [
        subprocess.Popen([sys.executable, "-c", textwrap.dedent(SAVE), str(tmp_path), str(seed), "20"])
        for seed in (1, 2)
    ]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
    assert verify(tmp_path) == [("net.safetensors", "ok")]
    assert card("net", tmp_path)["writer"] in ("1", "2")


def test_two_trainings_of_one_run(tmp_path, capsys):
    from filelock import FileLock

    from course_utils import cli

    with FileLock(tmp_path / "noise-predictor.run.safetensors.training.lock"):  # as a running `course train` holds it
        status = cli.main(["train", "noise-predictor", "--minutes", "0.01", "--run-dir", str(tmp_path)])
    assert status == 2 and "another `course train` is writing" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.run.safetensors"))


def test_out_of_memory_is_one_sentence(monkeypatch, capsys, tmp_path):
    from course_utils import cli
    from course_utils.app import generate

    def no_memory(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(generate, "draw_pictures", no_memory)
    assert cli.main(["draw", "--out", str(tmp_path / "x.png")]) == 2
    assert "memory ran out" in capsys.readouterr().err


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch):
    from course_utils import cli
    from course_utils.app import commands

    monkeypatch.setattr(commands, "doctor", lambda args: {}["a bug"])
    with pytest.raises(KeyError):
        cli.main(["doctor"])


# ------------------------------------------------------------------ what is printed, and who reads it
def test_nobody_reads_the_list_to_its_end():
    """As `course list | head -1`: the reader is gone, and nothing is said about it."""
    import os

    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "course_utils.cli", "list"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=300)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.fixture
def drawn(monkeypatch):
    """`course draw` without its networks: a list of what each call asked for."""
    import numpy as np

    from course_utils.app import generate

    calls = []

    def draw(system, prompts, *options, **named):
        calls.append((system, options, named))
        return np.zeros((len(prompts), 4, 4, 3), np.uint8)

    monkeypatch.setattr(generate, "draw_prompts", draw)
    return calls


def test_an_output_that_cannot_print_chinese_does_not_spoil_a_drawing(drawn, tmp_path, monkeypatch):
    import io

    from course_utils import cli

    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert cli.main(["draw", "cat", "--count", "1", "--out", str(tmp_path / "猫.png")]) == 0
    assert (tmp_path / "猫.png").is_file() and b"\\u732b.png" in written.getvalue()


# ------------------------------------------------------------------ options that change nothing
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("cat", "--negative", "dog", "--guidance", "1"), "--negative changed nothing, since guidance is off"),
        (("--negative", "dog"), "--negative changed nothing: without a prompt"),
        (("--guidance", "3", "--negative", "dog"), "--guidance and --negative changed nothing"),
        (("cat", "--guidance", "0"), "the prompt changed nothing"),
    ],
)
def test_an_option_without_effect_says_so(drawn, tmp_path, capsys, options, words):
    from course_utils import cli

    assert cli.main(["draw", *options, "--count", "1", "--out", str(tmp_path / "x.png")]) == 0
    one_sentence(SimpleNamespace(returncode=0, stderr=capsys.readouterr().err), words, status=0)


def test_options_with_effect_say_nothing(drawn, tmp_path, capsys):
    from course_utils import cli

    for options in (("cat", "--negative", "dog"), ("cat", "--guidance", "1"), ()):
        assert cli.main(["draw", *options, "--count", "1", "--out", str(tmp_path / "x.png")]) == 0
    assert not capsys.readouterr().err


def test_every_lora_that_is_named_is_taken(drawn, tmp_path):
    from course_utils import cli

    assert cli.main(["draw", "cat", "--lora", "xp7", "--lora", "b.safetensors", "--out", str(tmp_path / "x.png")]) == 0
    ((_, options, _),) = drawn
    assert ["xp7", "b.safetensors"] in options


@pytest.mark.parametrize("system", ["evaluator", "vae", "xp7"])
@pytest.mark.parametrize("option", ["prompts", "steps", "guidance", "seed", "device"])
def test_an_evaluation_refuses_what_would_change_nothing(system, option, capsys):
    from course_utils import cli

    value = "cpu" if option == "device" else "0" if option == "seed" else "3"
    assert cli.main(["evaluate", system, f"--{option}", value]) == 2
    one_sentence(
        SimpleNamespace(returncode=2, stderr=capsys.readouterr().err), f"leave --{option} out", "measured in the same"
    )


def test_data_that_git_lfs_has_yet_to_fetch(tmp_path):
    from course_utils import data

    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n"
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  emoji_64.parquet\n")
    (tmp_path / "emoji_64.parquet").write_bytes(pointer)
    ((name, status),) = data.verify(tmp_path)
    assert name == "emoji_64.parquet" and status.startswith("a git-LFS pointer") and "git lfs pull" in status
