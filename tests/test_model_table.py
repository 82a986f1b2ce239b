"""The table of the networks: fresh, and honest about what differs."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location("table", ROOT / "scripts/model_table.py")
model_table = importlib.util.module_from_spec(spec)
spec.loader.exec_module(model_table)
Figure, compare = model_table.Figure, model_table.compare


@pytest.fixture(scope="module")
def fresh():
    return model_table.page()


def test_the_committed_page_says_what_the_code_says_now(fresh):
    committed = model_table.PAGE.read_text(encoding="utf-8")
    assert committed == fresh, "run python scripts/model_table.py"


def test_every_source_is_in_the_bibliography():
    bibliography = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    missing = [
        r.source for r in model_table.ROWS if f"{{{r.source}," not in bibliography
    ]
    assert missing == []


@pytest.mark.parametrize(
    ("ours", "figure", "expected"),
    [
        (8_139, Figure("8.1 K", 8_100, 100), "0"),  # equal in all digits printed
        (8_151, Figure("8.1 K", 8_100, 100), "+51 (+0.6%)"),
        (99, Figure("100", 100), "-1 (-1.0%)"),
        (99, None, ""),
    ],
)
def test_a_difference_counts_from_the_last_digit_that_is_printed(
    ours, figure, expected
):
    assert compare(ours, figure, 1, "") == expected


def test_a_difference_without_a_reason_is_refused(monkeypatch):
    other = model_table.ROWS[4]._replace(parameters=Figure("31 M", 30e6, 1e6))
    monkeypatch.setattr(model_table, "ROWS", (other,))
    with pytest.raises(ValueError, match=r"UNet\(1, 2\)`: 31036546 is not 31 M. Say"):
        model_table.page()


def test_a_reason_stands_once_and_every_row_that_needs_it_has_its_letter(fresh):
    _, reasons = fresh.split("## Why they differ")
    assert fresh.count("TensorFlow's") == reasons.count("TensorFlow's") == 1
    assert fresh.count("%) b\n") == 3  # three networks on ResNet-101
