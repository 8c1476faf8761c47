"""A small convolutional network for handwritten digits, and how to load it from a checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn


class DigitNet(nn.Module):
    """``(batch, 1, 8, 8)`` floats in 0..1 -> ``(batch, 10)`` logits."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
        )
        self.classify = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(2 * width * 16, 96),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(96, 10),
        )

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.classify(self.features(pictures))


def load(checkpoint: Path) -> DigitNet:
    """The trained network of a checkpoint folder, ready to predict."""
    state = torch.load(checkpoint / "model.pt", weights_only=True)
    network = DigitNet(state["width"])
    network.load_state_dict(state["network"])
    return network.eval()
