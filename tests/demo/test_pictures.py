"""The demo's data: real scans, three sets that share no picture."""

from __future__ import annotations

from pathlib import Path

import pytest

from trunkline.demo.pictures import write_pictures

pytestmark = pytest.mark.slow  # writes 1797 pictures, with scikit-learn's help


def test_no_held_out_picture_is_ever_committed(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pictures = write_pictures(tmp_path)
    names = [
        {path.name for path in folder.iterdir()}
        for folder in (pictures.first, pictures.second, pictures.held_out)
    ]
    assert [len(found) for found in names] == [900, 597, 300]
    assert len(set.union(*names)) == 1797
    with image.open(next(pictures.first.iterdir())) as picture:
        assert picture.size == (8, 8)
