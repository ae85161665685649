"""A colour for each class, on pictures and in the palettes of class maps.

Each colour is bright enough for black letters on it and for dark photographs; on bright photographs, lines get a dark
edge. The table was built one colour at a time: among all sRGB colours of this brightness, the next one has the largest
distance in OKLab (Ottosson 2020) to the nearest earlier one, for people with normal vision and with each of the three
kinds of colour blindness (Machado, Oliveira and Fernandes 2009). So the first classes differ most.
"""

from __future__ import annotations

from typing import Final

#: The colours, by class; more classes begin again.
COLOURS: Final = (
    "#ffa500", "#5a78e1", "#69e1ff", "#e14b5a", "#d2ffa5", "#00b4c3", "#a5d296", "#ffe100",
    "#d28700", "#9696ff", "#c35a96", "#96fff0", "#ff6996", "#5ac3ff", "#e11ed2", "#ffb4d2",
    "#ff78d2", "#c3e178", "#78d25a", "#96a55a", "#a57800", "#e11eff", "#a5f0b4", "#00965a",
)  # fmt: skip
#: The colour of "no object" in class maps.
BACKGROUND: Final = "#30343b"
#: The name of "no object" in class maps that are drawn from objects.
BACKGROUND_NAME: Final = "background"


def colour_of(label: int) -> str:
    """The colour of a class, ``"#rrggbb"``.

    >>> colour_of(0), colour_of(24)
    ('#ffa500', '#ffa500')
    """
    return COLOURS[label % len(COLOURS)]


def map_colours(map_classes: tuple[str, ...]) -> tuple[str, ...]:
    """The colour of each class of a class map; classes of objects have the same colour as on boxes.

    >>> map_colours(("background", "cat"))
    ('#30343b', '#ffa500')
    """
    first = int(map_classes[:1] == (BACKGROUND_NAME,))
    return (BACKGROUND,) * first + tuple(colour_of(label) for label in range(len(map_classes) - first))


def rgb(colour: str) -> tuple[int, int, int]:
    """``"#rrggbb"`` as three numbers from 0 to 255.

    >>> rgb("#ffa500")
    (255, 165, 0)
    """
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
