"""The order of scripts in the galleries: chapter 10 comes behind chapter 9, not behind chapter 1."""

from __future__ import annotations

import re


class ByNumber:
    """Sorts names of files by their text and their numbers.

    >>> sorted(["plot_10_b.py", "plot_9_a.py", "plot_a1.py"], key=ByNumber(""))
    ['plot_9_a.py', 'plot_10_b.py', 'plot_a1.py']
    """

    def __init__(self, src_dir: str) -> None:
        self.src_dir = src_dir

    def __call__(self, filename: str) -> tuple[tuple[bool, int, str], ...]:
        parts = re.findall(r"\d+|\D", str(filename))
        return tuple((not each.isdigit(), int(each) if each.isdigit() else 0, each) for each in parts)

    def __repr__(self) -> str:  # the configuration is compared by it, to see whether pages have to be built again
        return f"<{type(self).__name__}>"
