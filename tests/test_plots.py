"""Figures: outlines lie where the masks end, and nothing is cut, hidden or unnamed."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from medseg import phantoms, plots
from medseg.statistics import bootstrap_interval, limits_of_agreement
from medseg.training import EpochRecord


@pytest.fixture(autouse=True)
def close_figures():
    with mpl.rc_context():
        yield
    plt.close("all")


@pytest.fixture
def ax():
    return plt.subplots()[1]


IMAGE = np.zeros((6, 8), np.uint8)
SQUARE = np.zeros((6, 8), int)
SQUARE[2:4, 3:6] = 1


def segments(ax):
    return [line for lines in ax.collections for line in lines.get_segments()]


def test_an_outline_runs_half_a_pixel_around_the_mask(ax):
    plots.overlay(ax, IMAGE, SQUARE)
    (line,) = segments(ax)
    assert line[:, 0].min() == 2.5  # x: columns 3..5
    assert line[:, 0].max() == 5.5
    assert line[:, 1].min() == 1.5  # y: rows 2..3
    assert line[:, 1].max() == 3.5


def test_the_outline_of_a_mask_at_the_edge_is_closed(ax):
    plots.overlay(ax, IMAGE, np.ones((6, 8), int))
    (line,) = segments(ax)
    assert np.array_equal(line[0], line[-1])
    assert line[:, 0].min() == -0.5
    assert ax.get_xlim() == (-0.5, 7.5)  # and it does not enlarge the axes
    assert ax.get_ylim() == (5.5, -0.5)


def test_touching_instances_get_an_outline_each(ax):
    touching = SQUARE.copy()
    touching[2:4, 5] = 2
    plots.overlay(ax, IMAGE, touching)
    assert len(segments(ax)) == 2


def test_truth_and_prediction_differ_in_colour_and_width_and_are_named(ax):
    plots.overlay(ax, IMAGE, SQUARE, SQUARE == 1, title="a case")
    truth, pred = ax.collections
    assert to_hex(truth.get_color()[0]).upper() == plots.TRUTH_COLOUR
    assert to_hex(pred.get_color()[0]).upper() == plots.PRED_COLOUR
    assert truth.get_linewidth()[0] > pred.get_linewidth()[0]
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["truth", "prediction"]
    assert ax.get_title() == "a case"
    assert len(ax.get_xticks()) == len(ax.get_yticks()) == 0


def test_classes_are_coloured_apart_and_named(ax):
    phantom = phantoms.abdomen_ct((64, 64))
    plots.overlay(ax, phantom.image, phantom.labels, names=phantom.names)
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == list(phantom.names[1:])
    colours = {to_hex(lines.get_color()[0]) for lines in ax.collections}
    assert len(colours) == 7


def test_a_sample_of_a_dataset_can_be_drawn_as_it_comes(ax):
    image = torch.rand(3, 6, 8)
    plots.overlay(ax, image, torch.from_numpy(SQUARE[None]).float())
    assert ax.images[0].get_array().shape == (6, 8, 3)
    assert len(segments(ax)) == 1


def test_an_empty_mask_draws_nothing_but_is_named(ax):
    plots.overlay(ax, IMAGE, np.zeros_like(SQUARE))
    assert segments(ax) == []
    assert ax.get_legend().get_texts()[0].get_text() == "truth"


def test_the_window_is_width_and_level(ax):
    plots.overlay(ax, np.zeros((6, 8)), window=(400, 40))
    assert ax.images[0].get_clim() == (-160, 240)


def test_8_bit_images_are_comparable_and_others_are_stretched(ax):
    plots.overlay(ax, np.full((6, 8), 100, np.uint8))
    assert ax.images[0].get_clim() == (0, 255)
    plots.overlay(ax, np.linspace(-3, 5, 48).reshape(6, 8))
    assert ax.images[1].get_clim() == (-3, 5)


@pytest.mark.parametrize(
    ("mm", "text", "pixels"),
    [
        (1.0, "2 cm", 20),
        (0.5, "1 cm", 20),
        (0.3, "5 mm", 5 / 0.3),
        (4e-6, "100 nm", 25),
    ],
)
def test_the_scale_bar_is_as_long_as_it_says(ax, mm, text, pixels):
    plots.overlay(ax, np.zeros((100, 90)), spacing=(mm, mm))
    (bar,) = ax.lines
    assert ax.texts[0].get_text() == text
    assert np.ptp(bar.get_xdata()) == pytest.approx(pixels)


def test_spacing_gives_pixels_their_shape(ax):
    plots.overlay(ax, IMAGE, spacing=(3.0, 1.5))
    assert ax.get_aspect() == 2.0


def test_a_panel_has_one_picture_an_image_and_one_legend():
    images = [phantoms.cells((32, 48), 2, seed=seed) for seed in range(5)]
    figure = plots.panel(
        [p.image for p in images],
        [f"case {i}" for i in range(5)],
        truths=[p.labels for p in images],
        preds=[None, *[p.labels > 0 for p in images[1:]]],
        columns=3,
    )
    drawn = [ax for ax in figure.axes if ax.images]
    assert [ax.get_title() for ax in drawn] == [f"case {i}" for i in range(5)]
    assert len(figure.axes) == 6
    assert not figure.axes[5].axison  # the place left over stays empty
    assert [len(ax.collections) for ax in drawn] == [1, 2, 2, 2, 2]
    assert all(ax.get_legend() is None for ax in drawn)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["truth", "prediction"]


def records(dice):
    return [
        EpochRecord(
            epoch=i + 1,
            train_loss=1 / (i + 1),
            val_loss=2 / (i + 1),
            val_dice=value,
            seconds=1.0,
            learning_rate=0.1,
        )
        for i, value in enumerate(dice)
    ]


def test_training_curves_show_what_was_recorded():
    figure = plots.training_curves(records([0.2, 0.8, 0.5]))
    loss, dice = figure.axes
    assert (loss.get_xlabel(), loss.get_ylabel()) == ("epoch", "loss")
    assert (dice.get_xlabel(), dice.get_ylabel()) == ("epoch", "validation Dice")
    assert list(loss.lines[0].get_ydata()) == [1, 1 / 2, 1 / 3]
    assert list(loss.lines[1].get_ydata()) == [2, 1, 2 / 3]
    assert [t.get_text() for t in loss.get_legend().get_texts()] == [
        "training",
        "validation",
    ]
    assert list(dice.lines[0].get_xdata()) == [1, 2, 3]
    assert list(dice.lines[0].get_ydata()) == [0.2, 0.8, 0.5]
    assert dice.get_title() == "best: 0.800 after epoch 2"


def test_training_curves_of_one_epoch_or_of_undefined_dice_can_be_drawn(tmp_path):
    for dice in ([0.5], [float("nan")] * 2):
        plots.training_curves(records(dice)).savefig(tmp_path / "curves.png")


def test_the_style_has_an_opaque_white_ground(tmp_path):
    plots.set_style()
    figure, ax = plt.subplots()
    ax.set_axis_off()
    figure.savefig(tmp_path / "empty.png")
    pixels = plt.imread(tmp_path / "empty.png")
    assert pixels.shape == (480, 640, 4)  # 6.4 x 4.8 inches at 100 dpi
    assert (pixels == 1).all()


# Scores of many patients.


def dots(ax):
    """The data of the lines that are drawn as dots."""
    return [line.get_xydata() for line in ax.lines if line.get_marker() == "o"]


def test_each_patient_is_a_dot_and_the_box_holds_the_middle_half(ax):
    liver = [0.0, 0.7, 0.8, 0.9, 1.0]
    plots.score_boxes(
        ax, {"liver": [*liver, np.nan], "spleen": [0.5]}, label="Dice", limits=(0, 1)
    )
    one, other = dots(ax)
    assert sorted(one[:, 1]) == liver  # the failure at 0 too
    assert np.abs(one[:, 0]).max() < 0.3
    assert other.tolist() == [[1, 0.5]]
    box = ax.patches[0].get_path().vertices
    assert (box[:, 1].min(), box[:, 1].max()) == (0.7, 0.9)
    names = [text.get_text() for text in ax.get_xticklabels()]
    assert names == ["liver\n(n = 5)", "spleen\n(n = 1)"]
    assert (ax.get_ylabel(), ax.get_ylim()) == ("Dice", (0, 1))


def test_models_stand_side_by_side_and_are_named(ax):
    plots.score_boxes(
        ax,
        {
            "A": {"liver": [0.9, 0.8], "spleen": []},
            "B": {"liver": [0.7], "spleen": [1]},
        },
        label="Dice",
    )
    a, b, spleen = dots(ax)
    assert a[:, 0].max() < 0 < b[:, 0].min()  # left and right of the class's place
    assert spleen[0, 0] > 1  # B keeps its side where A has nothing
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["A", "B"]
    names = [text.get_text() for text in ax.get_xticklabels()]
    assert names == ["liver\n(n = 1, 2)", "spleen\n(n = 0, 1)"]


def test_dots_of_equal_scores_do_not_hide_each_other(ax):
    plots.score_boxes(ax, {"liver": [0.5] * 6 + [0.9]}, label="Dice")
    (drawn,) = dots(ax)
    assert len(np.unique(drawn[:6, 0])) == 6


def test_names_of_many_classes_are_turned(ax):
    plots.score_boxes(ax, {f"a long name {i}": [0.5] for i in range(9)}, label="Dice")
    assert ax.get_xticklabels()[0].get_rotation() == 60
    assert ax.get_xticklabels()[0].get_text() == "a long name 0 (n = 1)"


def test_differences_are_drawn_with_the_interval_that_is_returned(ax):
    values = np.array([0.1, -0.1, 0.3, np.nan])
    drawn = plots.paired_differences(
        ax,
        {"liver": values},
        label="difference in Dice",
        sides=("B better", "A better"),
    )
    assert drawn == {"liver": bootstrap_interval(values)}
    (one,) = dots(ax)
    assert sorted(one[:, 0]) == [-0.1, 0.1, 0.3]
    (bar,) = [line for line in ax.lines if line.get_linewidth() == 2.5]
    assert tuple(bar.get_xdata()) == drawn["liver"][1:3]
    texts = [text.get_text() for text in ax.texts]
    assert texts == ["← B better", "A better →"]
    assert ax.get_yticklabels()[0].get_text() == "liver\n(n = 3)"
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first class is on top


def test_differences_take_the_interval_over_patients(ax):
    values, patients = np.arange(6.0), list("aabbcc")
    drawn = plots.paired_differences(ax, {"x": values}, patients, label="ml")
    assert drawn["x"] == bootstrap_interval(values, patients)


def test_bland_altman_draws_difference_against_mean_with_its_limits(ax):
    pred, truth = [12.0, 20.0, 33.0, np.nan], [10.0, 20.0, 30.0, 4.0]
    drawn = plots.bland_altman(ax, pred, truth, label="volume", unit="ml")
    assert drawn == limits_of_agreement(pred, truth)
    (one,) = dots(ax)
    assert one[:3].tolist() == [[11, 2], [20, 0], [31.5, 3]]
    heights = [line.get_ydata()[0] for line in ax.lines[1:]]
    assert heights == [0, drawn.upper.mean, drawn.bias.mean, drawn.lower.mean]
    assert ax.get_xlabel() == "volume, mean of prediction and reference [ml]"
    assert ax.get_ylabel() == "volume, prediction − reference [ml]"
    texts = [text.get_text() for text in ax.texts]
    assert texts == ["+1.96 SD\n+4.66 ml", "bias\n+1.67 ml", "−1.96 SD\n−1.33 ml"]
    bands = [patch.get_y() for patch in ax.patches]
    assert bands == pytest.approx([drawn.upper.low, drawn.bias.low, drawn.lower.low])


def test_bland_altman_of_one_patient_has_no_limits(ax):
    plots.bland_altman(ax, [3.0], [2.0], label="volume", unit="ml")
    assert len(ax.texts) == 1


def test_reliability_leaves_empty_bins_out_and_weighs_the_others(ax):
    error = plots.reliability_diagram(
        ax, [0.2, np.nan, 0.8], [0.2, np.nan, 0.5], [90, 0, 10]
    )
    assert error == pytest.approx(0.03)  # 10 of 100 pixels are off by 0.3
    assert dots(ax)[0].tolist() == [[0.2, 0.2], [0.8, 0.5]]
    assert ax.get_title() == "expected calibration error 0.030"
    (bars,) = [other for other in ax.figure.axes if other is not ax]
    assert [bar.get_height() for bar in bars.patches] == [90, 10]
    assert bars.get_ylabel() == "pixels"


def test_froc_climbs_in_steps_and_counts_what_lies_left_of_the_axis(ax):
    plots.froc_curve(ax, [4, 0, 0.5, 1, 9], [0.9, 0.3, 0.6, 0.5, 1.0], label="U-Net")
    (line,) = ax.lines
    assert line.get_xdata().tolist() == [0.125, 0.5, 1, 4, 8]
    assert line.get_ydata().tolist() == [0.3, 0.6, 0.6, 0.9, 0.9]
    assert line.get_drawstyle() == "steps-post"
    ticks = [text.get_text() for text in ax.get_xticklabels()]
    assert ticks == ["1/8", "1/4", "1/2", "1", "2", "4", "8"]
    assert ax.get_legend().get_texts()[0].get_text() == "U-Net"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda ax: plots.score_boxes(ax, {}, label=""), ValueError, "one class at"),
        (
            lambda ax: plots.score_boxes(
                ax, {"A": {"a": [1]}, "B": {"b": [1]}}, label=""
            ),
            ValueError,
            "differ in their classes",
        ),
        (
            lambda ax: plots.score_boxes(ax, {"a": [np.inf]}, label=""),
            ValueError,
            "'a' hold an infinite value",
        ),
        (
            lambda ax: plots.score_boxes(ax, {"a": ["1"]}, label=""),
            TypeError,
            "'a' must be numbers",
        ),
        (
            lambda ax: plots.score_boxes(ax, {"a": [[1]]}, label=""),
            ValueError,
            r"shape \(n,\), got \(1, 1\)",
        ),
        (
            lambda ax: plots.paired_differences(ax, {}, label=""),
            ValueError,
            "differences is empty",
        ),
        (
            lambda ax: plots.bland_altman(ax, [1], [1, 2], label="", unit=""),
            ValueError,
            "a has 1 values and b has 2",
        ),
        (
            lambda ax: plots.reliability_diagram(ax, [0.5], [0.5], [1, 2]),
            ValueError,
            r"got shapes \[\(1,\), \(1,\), \(2,\)\]",
        ),
        (
            lambda ax: plots.reliability_diagram(ax, [50], [0.5], [1]),
            ValueError,
            "confidence must lie",
        ),
        (
            lambda ax: plots.reliability_diagram(ax, [np.nan], [np.nan], [0]),
            ValueError,
            "some of them above 0",
        ),
        (
            lambda ax: plots.froc_curve(ax, [1, 2], [1]),
            ValueError,
            r"shapes \(2,\) and \(1,\)",
        ),
        (lambda ax: plots.froc_curve(ax, [-1], [1]), ValueError, "0 or more"),
        (lambda ax: plots.froc_curve(ax, [1], [80]), ValueError, "as a share"),
        (
            lambda ax: plots.froc_curve(ax, [1], [1], limits=(0, 8)),
            ValueError,
            "limits must be positive",
        ),
    ],
)
def test_scores_that_cannot_be_drawn_are_refused_with_advice(ax, call, error, message):
    with pytest.raises(error, match=message):
        call(ax)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda ax: plots.overlay(ax, np.zeros((2, 4, 6, 8))),
            ValueError,
            "of a batch",
        ),
        (
            lambda ax: plots.overlay(ax, IMAGE, SQUARE.T),
            ValueError,
            r"\(8, 6\), but the",
        ),
        (lambda ax: plots.overlay(ax, IMAGE, SQUARE / 2), TypeError, "class indices"),
        (
            lambda ax: plots.overlay(ax, IMAGE, window=(0, 4)),
            ValueError,
            "positive widt",
        ),
        (
            lambda ax: plots.overlay(ax, np.zeros((6, 8, 3)), window=(1, 4)),
            ValueError,
            "needs a grey image",
        ),
        (
            lambda ax: plots.overlay(ax, IMAGE, 2 * SQUARE, names=("a", "b")),
            ValueError,
            "holds label 2, but there are 2 names",
        ),
        (lambda ax: plots.overlay(ax, IMAGE, spacing=(1,)), ValueError, "2 axes"),
        (lambda ax: plots.panel([]), ValueError, "images is empty"),
        (lambda ax: plots.panel([IMAGE], columns=0), ValueError, "1 or more, got 0"),
        (
            lambda ax: plots.panel([IMAGE], ["a", "b"]),
            ValueError,
            "titles has 2 entries",
        ),
        (lambda ax: plots.training_curves([]), ValueError, "records is empty"),
    ],
)
def test_bad_input_is_refused_with_advice(ax, call, error, message):
    with pytest.raises(error, match=message):
        call(ax)
