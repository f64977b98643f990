"""The reports of `course evaluate` run from end to end, at their smallest."""

from course_utils.evaluation import report, report_xp7

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
