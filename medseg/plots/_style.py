"""Colours, and the look that all figures share."""

import matplotlib.pyplot as plt

OKABE_ITO = (
    "#0072B2",  # blue
    "#E69F00",  # orange
    "#009E73",  # bluish green
    "#D55E00",  # vermillion
    "#56B4E9",  # sky blue
    "#CC79A7",  # reddish purple
    "#F0E442",  # yellow
)
TRUTH_COLOUR = "#56B4E9"
PRED_COLOUR = "#E69F00"
# On a dark image blue is hard to see: for classes it comes last.
CLASS_COLOURS = tuple(OKABE_ITO[i] for i in (4, 1, 2, 6, 5, 3, 0))


def set_style() -> None:
    """Set matplotlib's defaults: opaque white ground, 100 dpi, Okabe-Ito colours.

    The ground stays white in a dark page, where black axes on nothing could not be
    read.
    """
    plt.rcParams.update(
        {
            "figure.facecolor": "white",
            "figure.dpi": 100,
            "figure.constrained_layout.h_pad": 0.08,
            "figure.constrained_layout.w_pad": 0.06,
            "savefig.facecolor": "white",
            "savefig.dpi": 100,
            "axes.facecolor": "white",
            "axes.prop_cycle": plt.cycler(color=OKABE_ITO),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 12,
            "axes.labelsize": 11,
            "font.size": 11,
            "legend.frameon": False,
            "legend.fontsize": 10,
            "lines.linewidth": 1.8,
            "image.cmap": "gray",
        }
    )
