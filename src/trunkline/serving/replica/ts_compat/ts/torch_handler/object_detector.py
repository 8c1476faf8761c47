"""TorchServe's ``object_detector``: boxes with class and score above a threshold."""

from __future__ import annotations

from typing import Any

import torch

from ..utils.util import map_class_to_label
from .vision_handler import VisionHandler, to_tensor


class ObjectDetector(VisionHandler):
    """For models that return torchvision's detections: a dict of boxes, labels and scores per image."""

    threshold = 0.5
    image_processing = staticmethod(to_tensor)

    def preprocess(self, data: Any) -> Any:
        images = [super(ObjectDetector, self).preprocess([row])[0] for row in data]
        return images  # of different sizes, so not one tensor

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        with torch.inference_mode():
            found = self.model(data, *args, **kwargs)
        return (
            found[1] if isinstance(found, tuple) else found
        )  # TorchScript detectors return (losses, detections)

    def postprocess(self, data: Any) -> Any:
        results = []
        for image in data:
            rows = []
            keep = image["scores"] >= self.threshold
            scores, labels, boxes = (image[k][keep].tolist() for k in ("scores", "labels", "boxes"))
            for score, label, box in zip(scores, labels, boxes, strict=True):
                named = map_class_to_label([[box]], self.mapping, [[label]])[0]
                rows.append({**named, "score": score})
            results.append(rows)
        return results
