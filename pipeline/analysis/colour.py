"""Colours of a scene: what RGB, depth and labels look like to a person."""

from base64 import b85decode
from functools import cache

import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8

from pipeline.data.modality import IGNORE_INDEX, DepthStatistics

PALETTE = (
    "#8b95a1", "#a9d6ef", "#f2a02b", "#128063", "#9a1750", "#3358c4", "#f4e34a", "#e6a3d0",
    "#f1e0b8", "#6b3f1d", "#b469e1", "#c34b00", "#5a1e87", "#4bc387", "#005a78", "#b4873c",
    "#87a5ff", "#0087b4", "#78fff0", "#b45a96", "#b4d287", "#962d96", "#00a569", "#f078d2",
    "#0096ff", "#964b3c", "#78005a", "#c3d200", "#96f087", "#3ca5c3", "#c3b4ff", "#f0c3c3",
    "#1e2da5", "#f05a87", "#4b6978", "#78783c", "#5a69b4", "#69b4a5", "#96c35a", "#783c69",
)  # fmt: skip
"""The colour of each class label, as in the legend; labels past the end start again at the second colour.

Class 0, mostly background, is muted. The first ten were chosen by hand, the rest by taking the candidate
farthest from those before it, by the smallest of its distances in OKLab as seen with normal vision,
deuteranopia and protanopia (Machado 2009, severity 1; the latter two weighted 1.6).
"""

NO_LABEL = (20, 20, 22)
"""A pixel whose label is ignored."""

NO_DEPTH = (214, 214, 216)
"""A pixel without a depth: a neutral grey, which the depth colour map never is."""

DEPTH_COLOUR_MAP = "magma_r"
"""Perceptually uniform, its lightness falls steadily with distance, so it also reads in grey."""

_DEPTH_COLOURS = (
    "{QbZD`@Q`6yZraL{Pwu~^tSx+wEXb0{O+*)?5_Rmto`Y#{pYFu<){7QrTyZg{otYf-"
    "k|;5p8eXK{@9xS*O~s+m;Te0{?U~F&yxPlkp9e%{>qL1$c+BRivGli{=$d;!G-"
    "?6g#NvP{=0$xxqtq*e*U(6{<M4kvU>ioc>b<;{;YQXs&xLTbN;7t{-"
    "tsLqi_D9ZvLNb{+(?7n``}=YW<jL{g!C`lxO{tX8e$4{ElS&jAQ(YV*H6=`-"
    "frsg<$)GU;2Sx`hQ;feO~!{UHN%k`FLIUc3k*$T=#NZ_i$YHZd~?kT=i>Q^l4o5XI%4TT=HaG@?u@_U|sNEUhiFA?pt2%T3_"
    "r~VCz?4>Q-"
    "UtRAT5;V&_t0<xphgPh{gxW#Ua{;7n)VN@(6mXxvC?+ed2IMr+tbY}Q3=)kJO6LvGSSZ_q(+&p>d^Kyl1Jamqe&$Ubw&J#)o"
    "8bi_P$!aH@qI(EN0cfC1xyg7KfIC!`>dAB!twKjUQHhQu(d$2Wot~7hCG<>Twe5x~js4{(~F@2>mexopcp)h`+FMpmdf1ECV"
    "n=XHuEr6IUfR-"
    "$Plq`UgD}a$JfsiVJjw*qSDS?YAfr%)Ah$n%DCxL_}frBQ2fhB=}C4zn=f_x)_dn1B*B7%4#fp#H*bs>RsAc1lpfp8yzZXSV"
    "c9f4~dfodFqXdHoO8-"
    "QgRfMgngVi|y77=T|Ge_a=UTo!*?7JgY3epeNKRup|y6Ma$>d{Gj7PZE1h5qnG#dP)#^Nf3BP5O_rpcSH|%LJxI74|G2day<"
    "`mI}dO<4{kURY&H;UG!SVs5N9zFWiJt9EfHZX5nn11TqzM+ClXjC5>+G;Qz8*iArVd>5lbEsNgWYK91uhr5JDLcKNt@^77sf"
    "W4mcDJHWLjr5)CmC3@;E1Ee;DS4GJj?2__2(Bnk*32?rnu2Ob9o90mm%1_c-"
    "e1QrAY6axbi0|O5N0u2HJ3jzTN0RadB0R{m81poj9"
)
"""Its 256 colours of three bytes each, as matplotlib has them, whose import takes most of a second.

Source: S. van der Walt & N. Smith 2015, mpl-colormaps (CC0).
"""


def rgb_image(
    rgb: Float[np.ndarray, "3 height width"] | UInt8[np.ndarray, "height width 3"],
) -> UInt8[np.ndarray, "height width 3"]:
    """Eight-bit RGB, channels last; values 0..1 are clamped and rounded, eight-bit ones kept."""
    if rgb.dtype == np.uint8:
        return rgb
    scaled = np.clip(rgb.transpose(1, 2, 0), 0.0, 1.0) * 255.0
    return np.rint(scaled).astype(np.uint8)  # type: ignore[no-any-return]


def depth_image(
    depth_m: Float[np.ndarray, "height width"],
    valid: Bool[np.ndarray, "height width"] | None,
    low_m: float,
    high_m: float,
) -> UInt8[np.ndarray, "height width 3"]:
    """Near is bright, far is dark, no depth is grey.

    Args:
        depth_m: Depth in metres; what it is where invalid has no effect, NaN included.
        valid: False where there is no depth; None: it is valid everywhere.
        low_m: Depth of the brightest colour; nearer looks the same.
        high_m: Depth of the darkest colour; farther looks the same.

    Raises:
        ValueError: If high_m does not exceed low_m.
    """
    if not high_m > low_m:
        raise ValueError(f"depth colours need low_m < high_m, not {low_m} and {high_m}")
    known = np.ones(depth_m.shape, bool) if valid is None else valid
    share = (np.where(known, depth_m, low_m) - low_m) / (high_m - low_m)
    image: UInt8[np.ndarray, "height width 3"] = _depth_colours()[
        np.rint(np.clip(share, 0.0, 1.0) * 255.0).astype(np.uint8)
    ]
    image[~known] = NO_DEPTH
    return image


def seg_image(labels: Integer[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width 3"]:
    """Each label in its colour of `PALETTE`; ignored pixels almost black."""
    image: UInt8[np.ndarray, "height width 3"] = np.take(
        _label_colours(), np.clip(labels, 0, IGNORE_INDEX), axis=0
    )
    return image


def class_colour(label: int) -> tuple[int, int, int]:
    """Red, green and blue, 0..255, of a class label."""
    red, green, blue = (int(part) for part in _label_colours()[label])
    return red, green, blue


def depth_colour(depth_m: float, low_m: float, high_m: float) -> tuple[int, int, int]:
    """Red, green and blue, 0..255, of a depth between the two ends of the colour map."""
    red, green, blue = (int(part) for part in depth_image(np.array([[depth_m]]), None, low_m, high_m)[0, 0])
    return red, green, blue


def depth_range_m(statistics: DepthStatistics) -> tuple[float, float]:
    """The depths that the colour map spans: one scale for every picture of a dataset.

    Two and a half standard deviations about the mean, within what occurs, so that a few
    outliers of a real sensor do not leave everything else in one colour.
    """
    low_m = max(statistics.min_m, statistics.mean_m - 2.5 * statistics.std_m)
    high_m = min(statistics.max_m, statistics.mean_m + 2.5 * statistics.std_m)
    return (low_m, high_m) if high_m > low_m else (low_m, low_m + 1.0)


def depth_bar(width: int, height: int) -> UInt8[np.ndarray, "height width 3"]:
    """The colour map from low (left) to high (right), for a scale."""
    ramp = np.rint(np.linspace(0.0, 255.0, width)).astype(np.uint8)
    return np.broadcast_to(_depth_colours()[ramp], (height, width, 3)).copy()


@cache
def _depth_colours() -> UInt8[np.ndarray, "256 3"]:
    return np.frombuffer(b85decode(_DEPTH_COLOURS), np.uint8).reshape(256, 3)


@cache
def _label_colours() -> UInt8[np.ndarray, "256 3"]:
    colours = [tuple(bytes.fromhex(code.removeprefix("#"))) for code in PALETTE]
    table = np.empty((IGNORE_INDEX + 1, 3), np.uint8)
    for label in range(IGNORE_INDEX):
        repeated = 1 + (label - 1) % (len(colours) - 1)
        table[label] = colours[label if label < len(colours) else repeated]
    table[IGNORE_INDEX] = NO_LABEL
    return table
