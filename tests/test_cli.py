"""The command `course`, run as a user runs it: quick help, the doctor, training that stops and goes on, drawing."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
TRAIN = ("train", "noise-predictor", "--device", "cpu")


def course(*arguments, data=None, cwd=None, timeout=400, **environment):
    """Run `course` in a process of its own; returns the finished process with its text."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment, **({"COURSE_DATA": str(data)} if data else {})}
    command = [sys.executable, "-m", "course_utils.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=cwd, timeout=timeout)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """A folder with the course's data but without checkpoints, in which one was trained for three seconds."""
    import shutil

    folder = tmp_path_factory.mktemp("workshop")
    shutil.copytree(ROOT / "data", folder / "data", ignore=shutil.ignore_patterns("build", "checkpoints"))
    done = course(*TRAIN, "--minutes", "0.05", "--run-dir", folder / "runs", data=folder / "data")
    assert done.returncode == 0, done.stderr
    assert "loss" in done.stderr and "pictures/s" in done.stderr and "left" in done.stderr
    return folder


def test_help_is_complete():
    result = course("--help")
    assert result.returncode == 0
    assert all(command in result.stdout for command in ("doctor", "list", "train", "draw"))


def test_help_imports_nothing_heavy():
    code = "import sys, course_utils.cli as c; c.parser().format_help(); print({'torch', 'numpy'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "set()", result.stderr


def test_training_leaves_a_checkpoint_with_its_card(workshop):
    card = json.loads((workshop / "data/checkpoints/noise-predictor.json").read_text())
    assert card["steps"] >= 1 and card["recipe"] == "noise-predictor" and len(card["sha256"]) == 64
    assert card["minutes"] > 0 and card["hardware"].endswith("CPU") and card["seed"] == 0
    assert (workshop / "runs/noise-predictor.run.safetensors").is_file()


def test_a_run_goes_on_and_never_replaces_a_better_checkpoint(workshop, tmp_path):
    card = json.loads((workshop / "data/checkpoints/noise-predictor.json").read_text())
    minutes, steps = card["minutes"] + 0.1, card["steps"]  # the first step alone takes seconds on a busy machine
    more = course(
        *TRAIN, "--minutes", minutes, "--resume", "--replace", "--run-dir", workshop / "runs", data=workshop / "data"
    )
    assert more.returncode == 0, more.stderr
    card = json.loads((workshop / "data/checkpoints/noise-predictor.json").read_text())
    assert card["steps"] > steps
    card["steps"] = 10**6
    (workshop / "data/checkpoints/noise-predictor.json").write_text(json.dumps(card))
    short = course(*TRAIN, "--minutes", "0.03", "--run-dir", tmp_path, data=workshop / "data")
    assert short.returncode == 0 and "it stays" in short.stdout, short.stderr
    assert json.loads((workshop / "data/checkpoints/noise-predictor.json").read_text())["steps"] == 10**6
    assert json.loads((tmp_path / "noise-predictor.json").read_text())["steps"] < 10**6
    spent = course(*TRAIN, "--minutes", "0.01", "--resume", "--run-dir", tmp_path, data=workshop / "data")
    assert spent.returncode == 2 and "give it more" in spent.stderr


def test_training_goes_on_from_shipped_weights_and_the_card_adds_up(workshop, tmp_path):
    before = json.loads((workshop / "data/checkpoints/noise-predictor.json").read_text())
    more = course(*TRAIN, "--minutes", "0.03", "--continue", "--replace", "--run-dir", tmp_path, data=workshop / "data")
    assert more.returncode == 0, more.stderr
    after = json.loads((workshop / "data/checkpoints/noise-predictor.json").read_text())
    assert after["steps"] > before["steps"] and after["minutes"] > before["minutes"]
    assert after["sha256"] != before["sha256"]


def test_ctrl_c_says_what_was_saved_and_how_to_go_on(workshop, tmp_path):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "COURSE_DATA": str(workshop / "data")}
    command = [sys.executable, "-m", "course_utils.cli", *TRAIN, "--minutes", "5", "--run-dir", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env) as process:
        seen = ""
        while "pictures/s" not in seen:  # the first step is done
            character = process.stderr.read(1)
            assert character, f"training ended before its first step: {seen}"
            seen += character
        process.send_signal(signal.SIGINT)
        seen += process.communicate(timeout=200)[1]
    assert process.returncode == 130
    assert "course: stopped" in seen and "--resume" in seen and "Traceback" not in seen
    assert (tmp_path / "noise-predictor.run.safetensors").is_file()
    again = course(*TRAIN, "--minutes", "5", "--resume", "--run-dir", tmp_path / "elsewhere", data=workshop / "data")
    assert again.returncode == 2 and "no run" in again.stderr


def test_list(workshop):
    result = course("list", data=workshop / "data")
    assert result.returncode == 0, result.stderr
    assert all(word in result.stdout for word in ("noise-predictor", "steps", "minutes on", "MB", "training_loss"))


def test_draw_writes_a_grid_and_a_seed_repeats_it(workshop, tmp_path):
    draw = ("draw", "--steps", 2, "--device", "cpu")
    for name, options in {"a.png": (), "b.png": (), "c.png": ("--seed", 1), "one.webp": ("--count", 1)}.items():
        count = () if "--count" in options else ("--count", 5)
        result = course(*draw, *count, *options, "--out", tmp_path / name, data=workshop / "data")
        assert result.returncode == 0, result.stderr
        assert name in result.stdout and " s: " in result.stdout
    same, other = (tmp_path / "a.png").read_bytes(), (tmp_path / "c.png").read_bytes()
    assert same == (tmp_path / "b.png").read_bytes() and same != other
    grid, one = Image.open(tmp_path / "a.png"), Image.open(tmp_path / "one.webp")
    assert grid.width > grid.height > 500 and one.width == one.height > 500  # 3 columns, 2 rows; enlarged


def test_a_prompt_is_answered_with_one_sentence(workshop, tmp_path):
    result = course(
        "draw",
        "pink butterfly",
        "--system",
        "noise-predictor",
        "--steps",
        1,
        "--count",
        1,
        "--out",
        tmp_path / "a.png",
        data=workshop / "data",
    )
    assert result.returncode == 0 and "takes no prompt" in result.stderr and (tmp_path / "a.png").is_file()


def test_picture_i_does_not_depend_on_how_many_are_drawn():
    from course_utils.systems.stage import start_noise

    many = start_noise(7, 20, (3, 32, 32))
    assert (start_noise(7, 3, (3, 32, 32)) == many[:3]).all()
    assert (start_noise(7, 2, (3, 32, 32), first=5) == many[5:7]).all()
    assert (start_noise(7, 3, (3, 32, 32), stage=1) != many[:3]).all()


def test_grid_places_pictures_in_reading_order():
    from course_utils.app.generate import grid

    pictures = np.stack([np.full((4, 4, 3), value, np.uint8) for value in (10, 20, 30)])
    sheet = grid(pictures, columns=2, gap=1)
    scale = sheet.shape[0] // 11
    small = sheet[::scale, ::scale, 0]
    assert small.shape == (11, 11)
    assert [small[2, 2], small[2, 7], small[7, 2], small[7, 7], small[0, 0]] == [10, 20, 30, 255, 255]


def test_doctor_report_reads_well_as_text_and_html():
    from course_utils.app.doctor import MISSING, NOTE, Report, Row

    rows = [Row("Python", "3.11"), Row("disk", "low", NOTE, "free <some>"), Row("torch", "-", MISSING, "do x")]
    report = Report(rows)
    assert not report.ok and Report(rows[:2]).ok
    assert str(report).isascii() and "MISSING  torch" in str(report) and "-> do x" in str(report)
    assert "✘ missing" in report._repr_html_() and "free &lt;some&gt;" in report._repr_html_()
    assert "background" not in report._repr_html_()  # legible on dark pages too
    assert "\x1b[31m" in report.text(color=True)
