"""How the lessons' figures look: one size, fonts that can be read in a notebook's column, colours for everyone."""

import matplotlib

# Okabe and Ito (2008): told apart with any form of colour blindness.  Blue, red and green have 4.5:1 on white or
# more only as lines; text in figures is INK.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#777777"
SKY, PINK, INK = "#56B4E9", "#CC79A7", "#222222"
WIDTH = 8.0  # inches


def use() -> None:
    """Make these the defaults of matplotlib."""
    matplotlib.rcParams.update(
        {
            "figure.figsize": (WIDTH, 3.6),
            "figure.dpi": 100,
            "figure.facecolor": "white",
            "figure.constrained_layout.use": True,
            "font.size": 11,
            "axes.titlesize": 12,
            "axes.labelsize": 11,
            "legend.fontsize": 11,
            "legend.frameon": False,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": INK,
            "text.color": INK,
            "axes.labelcolor": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "image.cmap": "cividis",
            "image.interpolation": "nearest",
            "axes.prop_cycle": matplotlib.cycler(color=[BLUE, ORANGE, GREEN, RED, PINK, SKY]),
        }
    )
