"""How figures look: colours that are told apart with any eyes, fonts for any script, names that fit."""

import matplotlib
import matplotlib.pyplot as plt
from cycler import cycler

from utils.core.files import replacing
from utils.core.fonts import families
from utils.core.text import printable, shortened

# Okabe and Ito 2008, "Color Universal Design": distinct for people with any kind of colour vision.
BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION = "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"
GREY, LIGHT_GREY = "#767676", "#c4c4c4"
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION)
NAME = 24  # characters of a name; a longer one loses its middle

matplotlib.use("Agg")
matplotlib.rcParams.update({"text.parse_math": False, "axes.prop_cycle": cycler(color=PALETTE), "font.family": families("")[0]})


def legible(text, most=NAME):
    """A stranger's text as a figure shows it: on one line, no longer than `most`, and a font for its characters is taken."""
    known, (chosen, text) = matplotlib.rcParams["font.family"], families(printable(text))
    matplotlib.rcParams["font.family"] = [*known, *(name for name in chosen if name not in known)]
    return shortened(text, most)


def save(figure, path):
    """Write a figure, atomically, and close it."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, bbox_inches="tight")
    plt.close(figure)


def plain(axis, grid="both"):
    """A light grid, and no lines above and to the right."""
    axis.grid(axis=grid, alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
