"""The report: nothing is dropped, patients stay together, and files are whole."""

import json
import math
import sys
import weakref

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medseg import metrics
from medseg.report import METRICS, Case, Report, _build, compare, load_report, report
from medseg.statistics import (
    adjust_p_values,
    bootstrap_interval,
    difference_interval,
    limits_of_agreement,
    permutation_test,
    wilcoxon_test,
)

ALL = tuple(METRICS)
FULL, EMPTY = np.ones((1, 4), int), np.zeros((1, 4), int)
THREE = np.array([[1, 1, 1, 0]])


def case(name, pred, truth, spacing=(1.0, 1.0), **options):
    return Case(name, np.array(pred), np.array(truth), spacing, **options)


@pytest.fixture(autouse=True)
def close_figures():
    with mpl.rc_context():
        yield
    plt.close("all")


# Four cases with every outcome: two classes, the second one missed, invented, absent.
OUTCOMES = [
    case("found", [[1, 1, 2, 2]], [[1, 2, 2, 2]], patient="p"),
    case("missed", [[1, 1, 0, 0]], [[1, 1, 2, 0]], patient="p"),
    case("invented", [[1, 1, 2, 0]], [[1, 1, 0, 0]], patient="q"),
    case("absent", [[1, 1, 0, 0]], [[1, 1, 0, 0]], patient="r"),
]
NAMES = ("background", "liver", "spleen")


def outcomes(**options):
    return report(OUTCOMES, 3, names=NAMES, progress=False, **options)


def test_what_is_missed_or_invented_scores_0_and_the_diagonal_and_absent_is_counted():
    found = outcomes(metrics=ALL, tolerance=0.5)
    diagonal = 17**0.5  # 1 x 4 mm
    assert found.scores["dice"][:, 1] == pytest.approx([0.8, 0, 0, math.nan], nan_ok=1)
    assert found.scores["hd95"][1:, 1].tolist()[:2] == [diagonal] * 2
    assert math.isnan(found.scores["assd"][3, 1])
    assert found.scores["surface_dice"][1:3, 1].tolist() == [0, 0]
    assert found.scores["precision"][1, 1] == 0
    assert math.isnan(found.scores["sensitivity"][2, 1])  # nothing to find
    assert found.outcomes[:, 1].tolist() == ["both", "missed", "invented", "absent"]
    about = found.summary()
    assert about["structures"]["spleen"] == {
        "both": 1,
        "missed": 1,
        "invented": 1,
        "absent": 1,
    }
    assert about["structures"]["liver"]["both"] == 4
    spleen = about["scores"]["spleen"]["dice"]
    assert (spleen["n"], spleen["undefined"]) == (3, 1)
    assert spleen["mean"] == pytest.approx(0.8 / 3)
    assert spleen["worst"] == "missed"


def test_pooled_counts_all_pixels_together():
    found = outcomes(metrics=["dice", "hd"])
    about = found.summary()["scores"]
    assert about["spleen"]["dice"]["pooled"] == 2 * 2 / (2 * 2 + 1 + 2)
    assert about["liver"]["dice"]["pooled"] == 2 * 7 / (2 * 7 + 1)
    assert about["mean"]["dice"]["pooled"] == pytest.approx((4 / 7 + 14 / 15) / 2)
    assert about["liver"]["hd"]["pooled"] is None


def test_the_mean_over_classes_is_of_those_defined_in_each_case():
    found = outcomes(metrics=["dice"])
    liver, spleen = found.scores["dice"].T
    expected = [(liver[0] + 0.8) / 2, 0.5, 0.5, 1.0]
    assert found.values("dice", "mean") == pytest.approx(expected)
    assert found.summary()["scores"]["mean"]["dice"]["mean"] == pytest.approx(
        np.mean(expected)
    )
    assert found.values("dice", "spleen")[:3].tolist() == spleen[:3].tolist()


def test_intervals_draw_whole_patients():
    rng = np.random.default_rng(0)
    truth = np.ones((4, 5), int)
    cases = [
        Case(
            f"{i}", rng.integers(0, 2, truth.shape), truth, (1, 1), f"patient {i // 3}"
        )
        for i in range(9)
    ]
    options = {"level": 0.9, "resamples": 300, "seed": 4, "method": "bca"}
    found = report(cases, 1, metrics=["sensitivity"], **options)
    values = found.scores["sensitivity"][:, 0]
    expected = bootstrap_interval(values, np.repeat([0, 1, 2], 3), **options)
    assert found.summaries[0].interval == expected
    alone = report([c._replace(patient=None) for c in cases], 1)
    assert alone.patients == alone.cases
    assert alone.summaries[2].interval == bootstrap_interval(values)


def test_named_rules_for_missed_and_absent():
    found = outcomes(metrics=ALL, tolerance=0.5, missed=374.0, absent="perfect")
    assert found.scores["hd95"][1:, 1].tolist() == [374, 374, 0]
    for name in ALL:
        if name != "specificity":
            best = 1 if METRICS[name].higher_is_better else 0
            assert found.scores[name][3, 1] == best
    assert math.isnan(found.scores["sensitivity"][2, 1])  # invented, not absent
    assert "distance 374 mm.\nAbsent in both: overlap 1 and distance 0." in str(found)


def test_volumes_are_in_ml_and_areas_in_mm2():
    volume = np.zeros((5, 10, 10), bool)
    volume[:2] = True  # 200 voxels of 5 mm3
    found = report([Case("a", ~volume, volume, (5.0, 1.0, 1.0))], 1)
    row = found.rows()[0]
    assert row["volume_truth_ml"] == 1.0
    assert row["volume_pred_ml"] == 1.5
    row = report([case("a", THREE, FULL, (0.5, 2.0))], 1).rows()[0]
    assert (row["area_pred_mm2"], row["area_truth_mm2"]) == (3.0, 4.0)


def test_without_spacing_there_are_overlaps_and_pixels_and_no_distances(tmp_path):
    found = report([case("a", THREE, FULL, None)], 1, metrics=["dice"])
    row = found.rows()[0]
    assert (row["size_pred_pixels"], row["size_truth_pixels"]) == (3, 4)
    found.to_json(tmp_path / "a.json")
    assert load_report(tmp_path / "a.json").spacings == (None,)
    ax = found.plot_sizes("class 1")[0].axes[0]
    assert ax.get_ylabel() == "class 1 size, prediction − reference [pixels]"
    with pytest.raises(ValueError, match="'b': spacing is given for some"):
        report(
            [case("a", THREE, FULL, None), case("b", THREE, FULL)], 1, metrics=["dice"]
        )


def random_labels(rng, shape, num_classes):
    """Blobs of every class, and at times none of one."""
    coarse = rng.integers(0, num_classes, [-(-n // 3) for n in shape])
    fine = coarse.repeat(3, axis=0).repeat(3, axis=1)
    if len(shape) == 3:
        fine = fine.repeat(3, axis=2)
    fine = fine[tuple(slice(n) for n in shape)]
    return np.where(fine == rng.integers(1, num_classes + 2), 0, fine)


@pytest.mark.parametrize("shape", [(20, 17), (9, 8, 10)])
@pytest.mark.parametrize("definition", ["directed_max", "pooled", "area_weighted"])
def test_scores_are_those_of_the_metrics_one_class_at_a_time(shape, definition):
    rng = np.random.default_rng(0)
    spacing = (3.0, 0.7, 1.1)[: len(shape)]
    pairs = [
        (random_labels(rng, shape, 4), random_labels(rng, shape, 4)) for _ in range(4)
    ]
    found = report(
        [Case(f"{i}", *pair, spacing) for i, pair in enumerate(pairs)],
        4,
        metrics=ALL,
        tolerance=[0.5, 1.0, 2.0],
        definition=definition,
        missed=999.0,
    )
    elements = definition == "area_weighted"
    surface = {"definition": "area_weighted"} if elements else {}
    for i, (pred, truth) in enumerate(pairs):
        for k in (1, 2, 3):
            p, t = pred == k, truth == k
            distances = metrics.surface_distances(
                p, t, spacing, surface="area_weighted" if elements else "voxel_edges"
            )
            expected = {
                "dice": metrics.dice_score(p, t),
                "iou": metrics.iou_score(p, t),
                "sensitivity": metrics.sensitivity(p, t),
                "specificity": metrics.specificity(p, t),
                "precision": metrics.precision(p, t),
                "volume_similarity": metrics.volume_similarity(p, t),
                "hd": metrics.hausdorff_distance(p, t, spacing, definition=definition),
                "hd95": metrics.hausdorff_distance(
                    p, t, spacing, percentile=95, definition=definition
                ),
                "assd": distances.average(),
                "surface_dice": metrics.surface_dice(
                    p, t, spacing, (0.5, 1.0, 2.0)[k - 1], **surface
                ),
            }
            assert set(expected) == set(ALL)
            for name, value in expected.items():
                value = 999.0 if math.isinf(value) else value
                assert found.scores[name][i, k - 1] == pytest.approx(
                    value, nan_ok=True
                ), (name, i, k)


def test_tensors_tuples_booleans_and_float_masks_are_taken():
    plain = report([case("a", THREE, FULL)], 1, metrics=["dice"])
    for pred in (
        torch.from_numpy(THREE),
        torch.from_numpy(THREE).float(),
        THREE == 1,
        THREE.astype(np.uint8),
        THREE.tolist(),
    ):
        given = [("a", pred, torch.from_numpy(FULL), [1, 1])]
        assert report(given, 2, metrics=["dice"]).scores == plain.scores


def test_cases_are_taken_one_after_the_other_and_not_kept():
    loaded = []

    def load():
        for i in range(5):
            # The one before is still in hand; those before it must be gone.
            assert [mask() for mask in loaded[:-1]] == [None] * len(loaded[:-1])
            pred = np.array(THREE)
            loaded.append(weakref.ref(pred))
            yield Case(f"{i}", pred, FULL, (1, 1))

    assert report(load(), 1, progress=False).cases == tuple("01234")


def test_the_bar_can_be_switched_off(capsys, monkeypatch):
    def slow():
        for i in range(3):
            yield case(f"{i}", THREE, FULL)

    report(slow(), 1, progress=False)
    assert capsys.readouterr().err == ""
    # A short report shows none either; without the delay it would.
    shown = []
    real = _build.tqdm

    def spy(*args, **options):
        shown.append((options["delay"], options["disable"]))
        return real(*args, **{**options, "delay": 0})

    monkeypatch.setattr(_build, "tqdm", spy)
    report(slow(), 1)
    assert shown == [(1, False)]
    assert "scoring" in capsys.readouterr().err


# Written and shown.


def test_csv_holds_a_row_for_each_case_and_class(tmp_path):
    found = outcomes(tolerance=1.0)
    found.to_csv(tmp_path / "report.csv")
    table = pd.read_csv(tmp_path / "report.csv")
    assert list(table["case"]) == [c.name for c in OUTCOMES for _ in (1, 2)]
    assert list(table["class"]) == ["liver", "spleen"] * 4
    assert list(table["outcome"][1::2]) == ["both", "missed", "invented", "absent"]
    for name in found.metrics:
        written = table[name].to_numpy().reshape(4, 2)
        assert np.array_equal(written, found.scores[name], equal_nan=True)
    text = (tmp_path / "report.csv").read_text()
    assert "nan" not in text
    assert list(tmp_path.iterdir()) == [tmp_path / "report.csv"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "report.csv"
    path.write_text("old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        outcomes().to_csv(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_dataframe_holds_the_same_rows():
    found = outcomes()
    frame = found.to_dataframe()
    assert frame.shape == (8, len(found.rows()[0]))
    assert frame["dice"].isna().sum() == 1
    means = frame.groupby("class")["dice"].mean()
    assert means["spleen"] == pytest.approx(found.summaries[1].interval.mean)


def test_without_pandas_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install pandas, or use rows"):
        outcomes().to_dataframe()


def test_json_is_strict_and_comes_back_as_the_same_report(tmp_path):
    path = tmp_path / "report.json"
    probability = np.full((3, 1, 4), 1 / 3)
    found = report(
        [c._replace(probability=probability) for c in OUTCOMES],
        3,
        names=NAMES,
        tolerance=[1.0, 2.0],
    )
    text = found.to_json(path)
    assert path.read_text() == text + "\n"
    content = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert content["summary"] == json.loads(json.dumps(found.summary()))
    assert content["rows"][7]["dice"] is None
    again = load_report(path)
    assert str(again) == str(found)
    assert again.to_json() == text
    assert compare(again, found, names=("x", "y")).scores[0].difference.mean == 0


def test_a_file_that_is_no_report_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no report"):
        load_report(tmp_path / "none.json")
    path = tmp_path / "report.json"
    outcomes().to_json(path)
    content = json.loads(path.read_text())
    del content["rows"][3]
    for text in ("{", "[]", '{"summary": {}}', json.dumps(content)):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"report\.json is not a report"):
            load_report(path)


def test_the_text_is_a_table_that_states_its_rules():
    text = str(outcomes(tolerance=[1.0, 2.5], metrics=["dice", "hd", "surface_dice"]))
    lines = text.splitlines()
    assert lines[0].startswith("4 cases of 3 patients. Mean over cases, 95 %")
    head = next(line for line in lines if line.startswith("HD [mm]"))
    assert head.split()[2:] == (
        ["mean", "interval", "median", "n", "undefined", "worst", "case"]
    )
    (spleen,) = [line for line in lines if line.startswith("spleen") and "4.12" in line]
    # Distances 1, then twice the diagonal; there is no pooled one.
    assert spleen.split()[1] == "3.08"
    assert spleen.split()[-4:] == ["4.12", "3", "1", "missed"]
    assert "distance the diagonal of the image" in text
    assert "(directed_max)" in text
    assert "Surface Dice at liver 1, spleen 2.5 mm." in text
    assert "spleen         1       1         1       1" in text


def test_html_holds_the_same_and_is_escaped():
    found = report([case("<b>", THREE, FULL)], 1, names=("background", "a & b"))
    html = found._repr_html_()
    assert "<td>a &amp; b</td>" in html
    assert "&lt;b&gt;" in html
    assert html.count("<tr>") == html.count("</tr>") == 2 * len(found.metrics) + 2


def test_one_case_has_scores_and_no_interval():
    text = str(report([case("a", THREE, FULL)], 1, metrics=["dice"]))
    assert text.startswith("1 case of 1 patient.")
    assert "class 1  0.857         -   0.857   0.857  1" in text


def test_a_class_that_never_occurs_is_undefined_everywhere():
    found = report([case("a", EMPTY, EMPTY)], 1, metrics=["dice", "hd95"])
    about = found.summary()["scores"]["class 1"]
    assert about["dice"]["mean"] is None
    assert (about["hd95"]["n"], about["hd95"]["undefined"]) == (0, 1)
    assert found.summaries[0].worst == ""
    assert math.isnan(found.summaries[0].pooled)


# Calibration.


def test_calibration_of_the_foreground_is_over_all_pixels():
    probability = np.array([[0.9, 0.9, 0.9, 0.05]])
    truth = [[1, 1, 0, 0]]
    found = report(
        [case(name, THREE, truth, probability=probability) for name in "ab"], 2
    )
    pixels, expected, hits = found.bins
    assert pixels[pixels > 0].tolist() == [2, 6]
    assert hits[pixels > 0] == pytest.approx([0, 4])
    assert expected[pixels > 0] == pytest.approx([0.1, 5.4])
    assert found.calibration_error == pytest.approx((1.4 + 0.1) / 8)
    assert found.summary()["calibration"]["error"] == pytest.approx(0.1875)
    assert "Expected calibration error 0.188" in str(found)


def test_calibration_of_classes_is_that_of_all_cases_in_one_batch():
    rng = np.random.default_rng(0)
    probability = torch.from_numpy(rng.dirichlet([1, 1, 1], size=(4, 5, 6)))
    probability = probability.permute(0, 3, 1, 2)  # (B, K, H, W)
    truth = rng.integers(0, 3, (4, 5, 6))
    found = report(
        [
            Case(
                f"{i}", probability[i].argmax(0), truth[i], (1, 1), None, probability[i]
            )
            for i in range(4)
        ],
        3,
    )
    expected = metrics.calibration_error(probability, truth)
    assert found.calibration_error == pytest.approx(expected, abs=1e-6)


def test_without_probabilities_there_is_no_calibration():
    found = outcomes()
    assert math.isnan(found.calibration_error)
    assert found.summary()["calibration"] is None
    with pytest.raises(ValueError, match="no probabilities"):
        found.plot_calibration()


# Figures.


def test_figures_show_what_the_report_holds():
    probability = np.full((3, 1, 4), 1 / 3)
    found = report([c._replace(probability=probability) for c in OUTCOMES], 3)
    dice, hd95 = found.plot_scores(["dice", "hd95"]).axes
    assert (dice.get_ylabel(), hd95.get_ylabel()) == ("Dice", "HD95 [mm]")
    assert [t.get_text() for t in dice.get_xticklabels()] == [
        "class 1\n(n = 4)",
        "class 2\n(n = 3)",
    ]
    figure, agreement = found.plot_sizes("class 2")
    # Patient p has 2 and 3, then 0 and 1 mm2; q 1 and 0; r has none in both.
    assert agreement == limits_of_agreement([1.0, 1.0], [2.0, 0.0])
    assert figure.axes[0].lines[0].get_xdata().tolist() == [1.5, 0.5]
    assert figure.axes[0].get_ylabel() == "class 2 area, prediction − reference [mm²]"
    axes = found.plot_calibration().axes
    assert (
        axes[0].get_title()
        == f"expected calibration error {found.calibration_error:.3f}"
    )
    empty = report([case("a", EMPTY, EMPTY)], 1)
    with pytest.raises(ValueError, match="absent in all cases"):
        empty.plot_sizes("class 1")


# Two models.


def two_models(n=8, seed=0):
    """Reports on one truth: the first model is a little better."""
    rng = np.random.default_rng(seed)
    made = []
    for wrong in (0.1, 0.2):
        cases = []
        for i in range(n):
            truth = random_labels(np.random.default_rng(i), (12, 12), 3)
            noise = rng.random(truth.shape) < wrong
            pred = np.where(noise, rng.integers(0, 3, truth.shape), truth)
            cases.append(Case(f"case {i}", pred, truth, (1, 1), f"patient {i // 2}"))
        made.append(cases)
    return made


def test_comparison_is_by_patient_and_corrected_over_metrics_and_classes():
    ours, theirs = two_models()
    options = {"metrics": ["dice", "hd95"], "names": NAMES, "level": 0.9}
    a, b = report(ours, 3, **options), report(theirs[::-1], 3, **options)
    found = compare(a, b, names=("U-Net", "FCN"))
    patients = [c.patient for c in ours]
    p_values = []
    for line in found.scores:
        x = a.values(line.metric, line.class_name)
        y = b.values(line.metric, line.class_name)[::-1]  # matched by name
        assert line.difference == difference_interval(x, y, patients, level=0.9)
        p_values.append(permutation_test(x, y, patients).p_value)
        assert (line.a, line.b) == pytest.approx((np.mean(x), np.mean(y)))
        sign = 1 if line.metric == "dice" else -1
        assert line.better == (sign * (x - y) > 0).sum()
        assert line.better + line.equal + line.worse == 8
    assert len(p_values) == 4
    assert [line.p_value for line in found.scores] == p_values
    assert [line.p_adjusted for line in found.scores] == list(adjust_p_values(p_values))
    assert found.scores[0].better > found.scores[0].worse
    text = str(found)
    assert "a = U-Net, b = FCN, on the same 8 cases of 4 patients" in text
    assert "90 % bootstrap interval and permutation test" in text
    assert "p adjusted for 4 tests (holm)" in text


def test_other_tests_and_choices():
    ours, theirs = two_models()
    a, b = report(ours, 3), report(theirs, 3)
    found = compare(
        a,
        b,
        classes=["mean"],
        metrics=["dice"],
        test="wilcoxon",
        correction="benjamini-hochberg",
    )
    (line,) = found.scores
    x, y = a.values("dice", "mean"), b.values("dice", "mean")
    assert line.p_value == wilcoxon_test(x, y, a.patients).p_value
    assert line.p_adjusted == line.p_value
    assert "wilcoxon test" in str(found)


def test_cases_scored_for_one_model_only_are_counted_and_said():
    right = [case("x", EMPTY, EMPTY), case("y", FULL, FULL), case("z", EMPTY, EMPTY)]
    wrong = [case("x", FULL, EMPTY), *right[1:]]  # it invents one
    a, b = (report(cases, 1, metrics=["dice"]) for cases in (right, wrong))
    found = compare(a, b)
    assert found.scores[0].unpaired == 1  # x; z has no score in both
    assert found.scores[0].difference.n == 1
    assert "Unpaired cases have a score in one model alone" in str(found)
    a, b = (
        report(cases, 1, metrics=["dice"], absent="perfect") for cases in (right, wrong)
    )
    line = compare(a, b).scores[0]
    assert (line.unpaired, line.difference.mean) == (0, pytest.approx(1 / 3))
    assert "Unpaired" not in str(compare(a, b))


def test_a_comparison_is_written_like_a_report(tmp_path):
    ours, theirs = two_models()
    found = compare(report(ours, 3), report(theirs, 3))
    found.to_csv(tmp_path / "compared.csv")
    table = pd.read_csv(tmp_path / "compared.csv")
    assert len(table) == len(found.scores) == 12
    assert table["p_adjusted"].tolist() == [line.p_adjusted for line in found.scores]
    assert found.to_dataframe().shape == table.shape
    about = json.loads(found.to_json())["summary"]
    assert about["scores"]["class 1"]["dice"]["p_value"] == found.scores[0].p_value
    assert "<th>a better/equal/worse</th>" in found._repr_html_()


def test_the_figure_says_which_side_is_better():
    ours, theirs = two_models()
    found = compare(report(ours, 3), report(theirs, 3), names=("U-Net", "FCN"))
    for metric, texts in (
        ("dice", ["← FCN better", "U-Net better →"]),
        ("hd95", ["← U-Net better", "FCN better →"]),
    ):
        (ax,) = found.plot(metric).axes
        assert [text.get_text() for text in ax.texts] == texts
    assert ax.get_xlabel() == "HD95, U-Net − FCN [mm]"


def broken(change):
    ours, theirs = two_models(4)
    return report(ours, 3), report(change(theirs), 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda cases: [cases[0]._replace(name="other"), *cases[1:]],
            "only in a: 'case 0'; only in b: 'other'",
        ),
        (lambda cases: cases[:2], "only in a: 'case 2', 'case 3'. Report on both"),
        (
            lambda cases: [c._replace(patient="p") for c in cases],
            "'case 0' is of patient 'patient 0' in a and of 'p' in b",
        ),
        (
            lambda cases: [c._replace(truth=c.pred) for c in cases],
            "'case 0' has another reference",
        ),
        (
            lambda cases: [c._replace(spacing=(1, 2)) for c in cases],
            "'case 0' has another reference",
        ),
    ],
)
def test_reports_on_different_cases_are_not_compared(change, message):
    with pytest.raises(ValueError, match=message):
        compare(*broken(change))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"missed": 50.0}, "different rules: missed is 'diagonal' in a and 50.0 in b"),
        ({"absent": "perfect"}, "absent is 'undefined' in a"),
        ({"tolerance": 2.0, "metrics": ["dice"]}, "tolerance is None in a"),
        ({"definition": "pooled"}, "definition is 'directed_max' in a"),
        ({"names": NAMES}, "different classes"),
        ({"metrics": ["hd"]}, "no metric in common"),
    ],
)
def test_reports_by_different_rules_are_not_compared(options, message):
    ours, theirs = two_models(4)
    with pytest.raises(ValueError, match=message):
        compare(report(ours, 3), report(theirs, 3, **options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test": "t"}, "test must be one of 'permutation', 'wilcoxon'"),
        ({"correction": "none"}, "correction must be one of"),
        ({"names": ("a", "a")}, "two different names"),
        ({"metrics": "dice"}, "metrics must be a list of names"),
        ({"metrics": ["hd"]}, "each of metrics must be one of 'dice', 'iou'"),
        ({"classes": ["liver"]}, "each of classes must be one of 'class 1'"),
    ],
)
def test_options_of_a_comparison_are_checked(options, message):
    ours, theirs = two_models(4)
    with pytest.raises(ValueError, match=message):
        compare(report(ours, 3), report(theirs, 3), **options)


def test_only_reports_are_compared():
    with pytest.raises(TypeError, match=r"two reports, got dict.*load_report"):
        compare({}, {})


# Bad input.

NAN = np.array([[math.nan, 1, 1, 0]])


@pytest.mark.parametrize(
    ("cases", "error", "message"),
    [
        ([], ValueError, "cases is empty"),
        ([case("a", FULL, FULL)] * 2, ValueError, "'a' occurs twice"),
        ([{"name": "a"}], TypeError, r"cases\[0\] must be a Case\(name, .* got dict"),
        ([("a", FULL, FULL)], TypeError, r"cases\[0\] must be a Case"),
        ([(3, FULL, FULL, (1, 1))], TypeError, r"cases\[0\] must have a name.*got 3"),
        (
            [case("a", FULL, FULL), case("b", FULL, FULL.T)],
            ValueError,
            r"case 'b': pred has shape \(1, 4\) and truth \(4, 1\)",
        ),
        ([case("b", 2 * FULL, FULL)], ValueError, r"'b': pred .* in 0..1 .* got 2..2"),
        ([case("b", FULL, -FULL)], ValueError, r"'b': truth .* got -1..-1"),
        ([case("b", NAN, FULL)], ValueError, "'b': pred must hold only 0 and 1"),
        ([case("b", 255.0 * FULL, FULL)], ValueError, "'b': pred must hold only 0 and"),
        ([case("b", [["1"]], [["1"]])], TypeError, "'b': pred must be class indices"),
        ([case("b", [1, 1], [1, 1])], ValueError, r"'b': pred must be .* shape \(2,\)"),
        ([case("b", np.ones((0, 3), int), FULL)], ValueError, r"shape \(0, 3\)"),
        ([case("b", FULL, FULL, (1,))], ValueError, "'b': spacing has 1 values"),
        ([case("b", FULL, FULL, (1, 0))], ValueError, "'b': spacing must be positive"),
        ([case("b", FULL, FULL, (1, math.nan))], ValueError, "'b': spacing must be"),
        ([case("b", FULL, FULL, 1.0)], ValueError, "'b': spacing must be the size"),
        ([case("b", FULL, FULL, None)], ValueError, "'b': hd95 needs the spacing"),
        (
            [case("a", FULL, FULL), case("b", FULL[None], FULL[None], (1, 1, 1))],
            ValueError,
            "'b': it has 3 axes, and the cases before it 2",
        ),
        (
            [case("a", FULL, FULL, patient="p"), case("b", FULL, FULL)],
            ValueError,
            "1 of 2 cases name no patient: 'b'",
        ),
        ([case("b", FULL, FULL, patient="")], TypeError, "'b': patient must be a name"),
        ([case("b", FULL, FULL, patient=7)], TypeError, "'b': patient .* got 7"),
        (
            [case("a", FULL, FULL, probability=FULL / 2), case("b", FULL, FULL)],
            ValueError,
            "'b': probability is given for some",
        ),
        (
            [case("b", FULL, FULL, probability=FULL[None] / 2)],
            ValueError,
            r"'b': probability must have shape \(1, 4\).*that of the foreground",
        ),
        (
            [case("b", FULL, FULL, probability=FULL)],
            TypeError,
            "'b': probability must hold floating",
        ),
        (
            [case("b", FULL, FULL, probability=2.0 * FULL)],
            ValueError,
            r"'b': probabilities must lie in \[0, 1\]",
        ),
        (
            [case("b", FULL, FULL, probability=NAN)],
            ValueError,
            r"'b': probabilities must lie in \[0, 1\]",
        ),
    ],
)
def test_bad_cases_are_refused_by_name(cases, error, message):
    with pytest.raises(error, match=message):
        report(cases, 2)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_classes": 0}, ValueError, "num_classes must be at least 1, got 0"),
        ({"num_classes": "2"}, TypeError, "num_classes must be an integer, got str"),
        ({"names": ("a",)}, ValueError, r"must be 2 names, the background first"),
        ({"names": "ab"}, ValueError, "2 names, .* got 'ab'"),
        ({"names": ("a", "mean")}, ValueError, "from 'mean'"),
        ({"num_classes": 3, "names": ["x", "y", "y"]}, ValueError, "must differ"),
        ({"metrics": ["dise"]}, ValueError, "each of metrics must be one of 'dice'"),
        ({"metrics": "dice"}, ValueError, "a list of names, got 'dice'"),
        ({"metrics": ["surface_dice"]}, ValueError, "needs a tolerance in mm"),
        ({"tolerance": -1}, ValueError, "tolerance must be one number of mm, 0 or"),
        ({"tolerance": [1, 2]}, ValueError, r"each of the 1 foreground class"),
        ({"definition": "max"}, ValueError, "definition must be one of"),
        ({"missed": "worst"}, ValueError, "'diagonal' or a positive number of mm"),
        ({"missed": math.inf}, ValueError, "positive number of mm, got inf"),
        ({"absent": 1}, ValueError, "absent must be one of 'undefined', 'perfect'"),
        ({"level": 95}, ValueError, "such as 0.95, got 95"),
        ({"resamples": 0}, ValueError, "at least 1, got 0"),
        ({"method": "t"}, ValueError, "method must be one of"),
    ],
)
def test_bad_options_are_refused_before_any_case_is_read(options, error, message):
    def cases():
        pytest.fail("a case was read")
        yield

    with pytest.raises(error, match=message):
        report(cases(), **{"num_classes": 2, **options})


def test_names_of_scores_and_classes_are_checked():
    found = outcomes()
    with pytest.raises(ValueError, match="metric must be one of 'dice'"):
        found.values("hd", "liver")
    with pytest.raises(ValueError, match="class_name must be one of 'liver', 'spleen'"):
        found.values("dice", "kidney")


@given(
    st.data(),
    st.integers(1, 4),
    st.lists(st.integers(1, 5), min_size=2, max_size=3),
    st.integers(1, 3),
    st.sampled_from([np.uint8, np.int16, np.int64, np.uint32]),
)
@settings(max_examples=60, deadline=None)
def test_any_masks_give_a_report_without_unannounced_nan(
    data, num_classes, shape, n, dtype
):
    top = max(num_classes, 2) - 1
    masks = arrays(dtype, tuple(shape), elements=st.integers(0, top))
    cases = [
        Case(f"{i}", data.draw(masks), data.draw(masks), [0.5] * len(shape))
        for i in range(n)
    ]
    found = report(
        cases, num_classes, metrics=ALL, tolerance=1.0, resamples=20, progress=False
    )
    for i, one in enumerate(cases):
        for k in range(1, top + 1):
            p, t = np.asarray(one.pred) == k, np.asarray(one.truth) == k
            outcome = found.outcomes[i, k - 1]
            expected = {
                (True, True): "both",
                (False, True): "missed",
                (True, False): "invented",
                (False, False): "absent",
            }
            assert outcome == expected[bool(p.any()), bool(t.any())]
            for name in ALL:
                value = found.scores[name][i, k - 1]
                undefined = outcome == "absent" and name != "specificity"
                undefined |= name == "sensitivity" and not t.any()
                undefined |= name == "specificity" and bool(t.all())
                assert math.isnan(value) == undefined, (name, outcome)
                if not undefined:
                    high = 1 if METRICS[name].unit == "" else 0.5 * math.hypot(*shape)
                    assert 0 <= value <= high + 1e-9
            assert found.scores["dice"][i, k - 1] == pytest.approx(
                metrics.dice_score(p, t), nan_ok=True
            )
    assert isinstance(found, Report)
    json.loads(found.to_json(), parse_constant=lambda name: pytest.fail(name))
    assert str(found)
    same = compare(found, found)
    assert all(line.p_value == 1 or math.isnan(line.p_value) for line in same.scores)
