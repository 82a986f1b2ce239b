import json

import numpy as np
import pytest

from medseg import course, ledger, phantoms
from medseg.datasets import ImageCase


@pytest.fixture(autouse=True)
def own_session(monkeypatch, tmp_path):
    """No rows of another test, and none of the recorded chapters."""
    monkeypatch.setattr(ledger, "_session", [])
    monkeypatch.setattr(ledger, "_recorded", lambda: RECORDED)
    monkeypatch.delenv(ledger.FOLDER_VARIABLE, raising=False)


RECORDED = (
    ledger.Row("03", "threshold", {"a": 0.5, "b": 0.7}, 0),
    ledger.Row("11", "FCN-32s", {"a": 0.8, "b": 0.9}, 130, 2_600_000),
)


def test_table_has_the_chapters_before_and_the_rows_of_this_session():
    ledger.keep("05", "mine", {"a": 0.25, "b": 0.75}, seconds=60, parameters=1234)
    lines = ledger.table().data.splitlines()
    assert [line.split("|")[2].strip() for line in lines[2:]] == ["threshold", "mine"]
    assert lines[3].startswith("| 05 | mine | 0.500 [")
    assert lines[3].endswith("| 0.25 | 1,234 | 60 s |")
    assert len(ledger.rows(before="99")) == 3


def test_a_method_kept_again_replaces_its_row():
    for dice in (0.1, 0.2):
        ledger.keep("05", "mine", {"a": dice})
    assert [row.dice["a"] for row in ledger.rows()[1:]] == [0.2]


def test_rows_of_other_images_are_marked():
    assert "not of the same images" not in ledger.table().data
    ledger.keep("05", "mine", {"phantom_1": 0.9})
    assert "not of the same images" in ledger.table().data


def test_a_recorded_run_stores_its_rows_and_they_come_back(monkeypatch, tmp_path):
    monkeypatch.setenv(ledger.FOLDER_VARIABLE, str(tmp_path))
    ledger.keep("05", "one", {"a": 1 / 3, "b": np.nan}, seconds=1.234, seed=2)
    ledger.keep("05", "two", {"a": 1.0, "b": 0.0})
    assert [path.name for path in tmp_path.iterdir()] == ["thread_05.json"]
    content = json.loads((tmp_path / "thread_05.json").read_text())
    assert [row["method"] for row in content["rows"]] == ["one", "two"]
    (tmp_path / "results").mkdir()
    content["record"] = {"device": "a machine"}
    (tmp_path / "results" / "thread_05.json").write_text(json.dumps(content))
    monkeypatch.undo()
    monkeypatch.setattr(ledger, "files", lambda package: tmp_path)
    ledger._recorded.cache_clear()
    one, two = ledger._recorded()
    ledger._recorded.cache_clear()
    assert one.dice["a"] == 0.3333
    assert np.isnan(one.dice["b"])
    assert (one.seconds, one.seed) == (1.2, 2)
    assert two.record == {"device": "a machine"}


@pytest.mark.parametrize(
    ("dice", "message"),
    [({}, "has no scores"), ({"a": 1.5}, r"Dice lies in \[0, 1\].*'a': 1.5")],
)
def test_what_is_no_score_is_refused(dice, message):
    with pytest.raises(ValueError, match=message):
        ledger.keep("05", "mine", dice)


def test_images_of_the_thread_have_one_size_and_masks_follow(monkeypatch):
    image, labels = phantoms.cells(seed=0)[:2]
    case = ImageCase("a", "a", image, labels)
    monkeypatch.setattr(course, "cases", lambda name, split, limit: [case])
    (small,) = ledger.thread("test")
    assert small.image.shape == (128, 128, 3)
    assert small.image.dtype == np.uint8
    assert set(np.unique(small.labels)) == {0, 1}
    assert (small.labels > 0).mean() == pytest.approx((labels > 0).mean(), abs=0.01)
