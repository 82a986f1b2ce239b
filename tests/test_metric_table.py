"""The page of metrics beside other libraries: fresh, and honest about what differs."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location("table", ROOT / "scripts/metric_table.py")
metric_table = importlib.util.module_from_spec(spec)
spec.loader.exec_module(metric_table)
COMMITTED = metric_table.PAGE.read_text(encoding="utf-8")


def test_our_column_says_what_the_code_says_now():
    for pair in metric_table.pairs():
        _, _, section = COMMITTED.partition(f"## {pair.text}\n")
        for row, value in metric_table.our_cells(pair):
            assert f"| {row} | {value} |" in section.partition("\n## ")[0]


def test_the_whole_page_is_what_the_libraries_say_now():
    for name in ("medpy", "monai", "surface_distance"):  # in the extra `bench`
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    assert metric_table.page() == COMMITTED, "run python scripts/metric_table.py"


def test_hd95_of_one_pair_has_three_values_by_definition():
    # As papers do, one library each, without naming which.
    cells = dict(metric_table.our_cells(metric_table.pairs()[0]))
    values = [
        cells[f"HD95, `{d}`"] for d in ("directed_max", "area_weighted", "pooled")
    ]
    assert values == ["38.176", "38.288", "0.000"]


def test_a_difference_without_a_reason_is_refused():
    assert metric_table.letter("SimpleITK", "volume similarity", "stray") == "d"
    with pytest.raises(ValueError, match="medpy differs from us in 'Dice' of 'stray'"):
        metric_table.letter("medpy", "Dice", "stray")


def test_errors_and_endless_numbers_are_shown_as_words():
    def fail():
        raise RuntimeError

    assert metric_table.shown(metric_table.value(fail)) == "`RuntimeError`"
    assert metric_table.shown(1.7e308) == "largest float"
    assert metric_table.shown(float("inf")) == "inf"
    assert metric_table.shown(0.12345) == "0.123"
