"""Pictures in, tensors out. A picture's label is the first part of its name: ``7.0042.png`` shows a seven."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image


def read(paths: Sequence[Path]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures as ``(count, 1, 8, 8)`` floats in 0..1, and their labels."""
    pixels = np.stack(
        [np.asarray(Image.open(path).convert("L").resize((8, 8)), dtype=np.float32) / 255 for path in paths]
    )
    labels = [int(path.name.split(".")[0]) for path in paths]
    return torch.from_numpy(pixels).unsqueeze(1), torch.tensor(labels)


def is_held_out(path: Path) -> bool:
    """One picture in ten measures the training and is never learnt from; which ones depends on the name alone, so a
    later training that continues from this one holds out the same."""
    return hashlib.sha256(path.name.encode()).digest()[0] % 10 == 0


def jitter(pictures: torch.Tensor) -> torch.Tensor:
    """Each picture a little turned, scaled and shifted: what handwriting does too."""
    count = len(pictures)
    angle = (torch.rand(count) - 0.5) * 0.5
    scale = 1 + (torch.rand(count) - 0.5) * 0.3
    rows = torch.zeros(count, 2, 3)
    rows[:, 0, 0] = torch.cos(angle) * scale
    rows[:, 0, 1] = -torch.sin(angle)
    rows[:, 1, 0] = torch.sin(angle)
    rows[:, 1, 1] = torch.cos(angle) * scale
    rows[:, :, 2] = (torch.rand(count, 2) - 0.5) * 0.4
    grid = torch.nn.functional.affine_grid(rows, list(pictures.shape), align_corners=False)
    return torch.nn.functional.grid_sample(pictures, grid, align_corners=False)
