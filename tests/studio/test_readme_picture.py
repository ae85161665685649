"""The picture of the studio in the README is what the page shows; ``STRIATE_WRITE_PICTURES=1`` writes it anew."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from striate.studio.default import default_subject

PICTURE = Path(__file__).parent.parent.parent / "docs" / "images" / "studio.png"


def test_the_picture_in_the_readme(start: Callable[..., Any], browser: Any, tmp_path: Path) -> None:
    from striate.studio.subject import find

    write = os.environ.get("STRIATE_WRITE_PICTURES") == "1"
    client = start(default_subject() if write else find("lenet5"))
    browser.open(client, "#/network?picture=p3", size=(1460, 720))
    browser.run("localStorage.setItem('striate-theme', 'light')")
    browser.driver.refresh()
    browser.wait("document.querySelector('[data-node=c1]')?.textContent.includes('sees')")
    browser.wait("document.querySelectorAll('.strip canvas').length === 10")
    image = Image.open(io.BytesIO(browser.driver.get_screenshot_as_png())).convert("RGB")
    assert len(np.unique(np.asarray(image).reshape(-1, 3), axis=0)) > 500
    if write:
        image.quantize(255, dither=Image.Dither.NONE).save(PICTURE, optimize=True)
    kept = Image.open(PICTURE)
    assert abs(kept.width - image.width) <= 20
    assert PICTURE.stat().st_size < 200_000
