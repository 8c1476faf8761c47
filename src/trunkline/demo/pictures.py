"""Scikit-learn's handwritten digits (1,797 real scans of 8 by 8 pixels, inside its wheel) as PNG files."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trunkline.errors import UnavailableError

FIRST_COUNT = 900
HELD_OUT_COUNT = 300
ORDER_SEED = 7


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Three folders; no picture is in two of them."""

    first: Path
    """900 pictures: the first commit."""
    second: Path
    """597 more: the second commit."""
    held_out: Path
    """300 that are never committed: they measure the live model."""


def write_pictures(folder: Path) -> Pictures:
    """Write all digits below ``folder`` as ``<label>.<number>.png``.

    :raises UnavailableError: ``missing_extra``, if scikit-learn or Pillow is not installed.
    """
    try:
        numpy: Any = importlib.import_module("numpy")
        image: Any = importlib.import_module("PIL.Image")
        datasets: Any = importlib.import_module("sklearn.datasets")
        importlib.import_module("torch")
    except ImportError as error:
        raise UnavailableError(
            f"the demo needs {error.name}, which is not installed: pip install 'trunkline[demo]'",
            kind="missing_extra",
        ) from error
    digits = datasets.load_digits()
    pictures = Pictures(first=folder / "first", second=folder / "second", held_out=folder / "held-out")
    order = numpy.random.RandomState(ORDER_SEED).permutation(len(digits.images))
    for place, number in enumerate(order):
        if place < FIRST_COUNT:
            target = pictures.first
        else:
            target = pictures.held_out if place >= len(order) - HELD_OUT_COUNT else pictures.second
        target.mkdir(parents=True, exist_ok=True)
        pixels = (digits.images[number] * (255 / 16)).astype("uint8")
        image.fromarray(pixels).save(target / f"{digits.target[number]}.{number:04d}.png")
    return pictures
