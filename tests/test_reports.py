"""The reports of `course evaluate` run from end to end, at their smallest."""

import json
import shutil

import pytest

from course_utils import checkpoints, cli
from course_utils.evaluation import report, report_vae, report_xp7
from course_utils.evaluation.intervals import Share

SHARES = {"concept", "concept_top5", "style", "color", "background"}


def test_a_system_is_judged_in_both_languages():
    rows = report.evaluate("text-pixel", n=4, steps=1, device="cpu")
    assert len(rows) == 5 and any("Chinese" in row for row in rows) and any("held-out" in row for row in rows)
    assert all(set(shares) <= SHARES and all(0 <= x <= 1 for x in shares.values()) for shares in rows.values())
    assert len(report.table(rows).splitlines()) == 6


def test_the_3d_style_is_judged_with_and_without_its_lora():
    rows = report.evaluate_style(2, steps=1)
    assert [row.split(",")[0] for row in rows] == ["without the LoRA", "with the LoRA"] * 2
    assert all("style" in shares for shares in rows.values())


def test_the_ways_to_teach_one_car_are_compared(monkeypatch):
    monkeypatch.setattr(report_xp7, "STEPS", 1)
    monkeypatch.setattr(report_xp7, "EACH", 2)
    done = []
    rows = report_xp7.evaluate_subject(progress=lambda n, total: done.append((n, total)))
    assert [*rows][:5] == ["base", "naive", "DreamBooth", "LoRA", "DreamBooth + LoRA"] and "shipped" in [*rows][5]
    assert done == [(n, 6) for n in range(7)]
    assert all(set(row) == {"subject", "prompt", "PRES", "DIV"} for row in rows.values())
    assert rows["base"] != [*rows.values()][5]
    for row in rows.values():
        assert all(row[key].low <= row[key] <= row[key].high for key in ("subject", "prompt", "PRES"))


# ------------------------------------------------------------------ the command
def test_what_is_measured_is_printed_and_kept_in_the_card(tmp_path, monkeypatch, capsys):
    for file in checkpoints.CHECKPOINT_DIR.glob("vae.*"):
        shutil.copy(file, tmp_path)
    before = checkpoints.card("vae", tmp_path)
    rows = {"held out, 500": {"concept": Share.of([True] * 19 + [False])}}
    monkeypatch.setattr(report_vae, "evaluate_vae", lambda folder: rows)
    assert cli.main(["evaluate", "vae", "--from", str(tmp_path)]) == 0
    assert "95 % [76, 99]" in capsys.readouterr().out and checkpoints.card("vae", tmp_path) == before
    assert cli.main(["evaluate", "vae", "--from", str(tmp_path), "--write"]) == 0
    after = json.loads((tmp_path / "vae.json").read_text(encoding="utf-8"))
    assert after["metrics"].pop("held out, 500") == {"concept": 0.95, "concept_interval": [0.764, 0.991]}
    before["metrics"].pop("held out, 500")
    assert after == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["vae", "--prompts", "3"], ["vae is always measured in the same way", "leave --prompts out"]),
        (["evaluator", "--steps", "3"], ["evaluator is always", "leave --steps out"]),
        (["xp7", "--guidance", "2"], ["xp7 is always", "leave --guidance out"]),
        (["vae", "--seed", "0"], ["leave --seed out"]),
        (["vae", "--device", "cpu"], ["leave --device out"]),
        (["text-pixel", "--prompts", "401"], ["prompts must be a whole number from 1 to 400, not 401"]),
        (["text-pixel", "--guidance", "21"], ["guidance", "from 0 to 20", "21"]),
        (["text-pixel", "--seed", "-1"], ["seed", "-1"]),
        (["text-pixel", "--from", "no-such-folder"], ["no checkpoint 'text-pixel'"]),
        (["vae", "--from", "no-such-folder"], ["no checkpoint 'vae'"]),
        (["inpaint"], ["unknown system to evaluate 'inpaint'", "style-3d"]),
    ],
    ids=" ".join,
)
def test_what_cannot_be_evaluated_is_refused_in_one_sentence(arguments, words, capsys):
    assert cli.main(["evaluate", *arguments]) == 2
    said = capsys.readouterr()
    assert not said.out and len(said.err.splitlines()) == 1 and all(word in said.err for word in words), said.err
