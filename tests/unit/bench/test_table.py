from __future__ import annotations

import json

import pytest

from bench.table import Row, Sheet, markdown, report, shown


@pytest.mark.parametrize(
    ("row", "met", "bound"),
    [
        (Row("a", 5.0, "ms"), None, ""),
        (Row("a", 5.0, "ms", 5.0), True, "≤ 5"),
        (Row("a", 5.1, "ms", 5.0), False, "≤ 5"),
        (Row("a", 5.0, "%", 5.0, at_least=True), True, "≥ 5"),
        (Row("a", 4.9, "%", 5.0, at_least=True), False, "≥ 5"),
        (Row("a", float("nan"), "%", 5.0), False, "≤ 5"),
    ],
)
def test_a_goal_is_met_from_its_own_side(row, met, bound):
    assert row.met is met
    assert row.bound == bound


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (None, ""),
        (True, "yes"),
        (False, "no"),
        ("p|q", "p|q"),
        (30_000, "30,000"),
        (0.0, "0"),
        (0.000123456, "0.000123"),
        (12.34, "12.3"),
        (1234.56, "1,234.6"),
        (100.0, "100"),
        (float("inf"), "inf"),
    ],
)
def test_cells_are_shown_as_people_read_them(cell, text):
    assert shown(cell) == text


def test_the_record_has_rows_and_what_lies_behind_them(tmp_path, capsys):
    file = tmp_path / "rows.json"
    sheet = Sheet("Cheats", ("cheat", "score"), [("int8", 5.0), ("random", None)])
    report("bench", [Row("refused", 100.0, "%", 100.0, at_least=True)], file, [sheet])
    assert json.loads(file.read_text()) == {
        "rows": [{"quantity": "refused", "value": 100.0, "unit": "%", "goal": 100.0, "met": True}],
        "details": {"Cheats": [{"cheat": "int8", "score": 5.0}, {"cheat": "random", "score": None}]},
    }
    assert "int8" in capsys.readouterr().out


def test_markdown_has_one_table_a_sheet():
    text = markdown("Bench", [Row("refused", 5.0, "%", 3.0)], [Sheet("Cheats", ("cheat", "score"), [("a|b", 5.0)])])
    assert text == (
        "## Bench\n\n| quantity | value | unit | goal | met |\n| --- | ---: | ---: | ---: | ---: |\n"
        "| refused | 5 | % | ≤ 3 | no |\n\n"
        "- Falls short: refused: 5 % (≤ 3).\n\n"
        "## Cheats\n\n| cheat | score |\n| --- | ---: |\n| a\\|b | 5 |\n"
    )


def test_what_falls_short_is_said_with_what_stands_in_the_way(tmp_path, capsys):
    rows = [
        Row("slow", 3.5, "×", 3.0, hindrance="Exponentials take most of it."),
        Row("quick", 1.0, "×", 3.0, hindrance="Nothing is said of what is met."),
        Row("a fact", 9.0, "×"),
    ]
    said = "Falls short: slow: 3.5 × (≤ 3). Exponentials take most of it."
    report("bench", rows, tmp_path / "rows.json")
    assert said in capsys.readouterr().out
    document = json.loads((tmp_path / "rows.json").read_text())
    assert document["shortfalls"] == [said]
    assert set(document["rows"][0]) == {"quantity", "value", "unit", "goal", "met"}
    page = markdown("Bench", rows)
    assert f"\n- {said}\n" in page
    assert "Nothing is said" not in page
