"""TorchServe's ``image_classifier``: the five likeliest classes with their probabilities."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image

from ..utils.util import map_class_to_label
from .vision_handler import VisionHandler, center_crop, resize, to_tensor

_MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
_STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def _imagenet(image: Image.Image) -> Any:
    return (to_tensor(center_crop(resize(image, 256), 224)) - _MEAN) / _STD


class ImageClassifier(VisionHandler):
    """Images are brought to 224 x 224 and normalised as for ImageNet."""

    topk = 5
    image_processing = staticmethod(_imagenet)

    def set_max_result_classes(self, topk: int) -> None:
        self.topk = topk

    def get_max_result_classes(self) -> int:
        return self.topk

    def postprocess(self, data: Any) -> Any:
        probabilities = torch.nn.functional.softmax(data, dim=1)
        values, classes = torch.topk(probabilities, min(self.topk, probabilities.shape[1]), dim=1)
        return map_class_to_label(values.tolist(), self.mapping, classes.tolist())
