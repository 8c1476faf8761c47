"""Images in: base64 text, bytes, or nested lists of numbers."""

from __future__ import annotations

import base64
import binascii
import io
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError

from ..utils.util import PredictionException
from .base_handler import BaseHandler


class VisionHandler(BaseHandler):
    """A subclass sets ``image_processing``: a function from a PIL image to a tensor."""

    image_processing: Any = None

    def preprocess(self, data: Any) -> Any:
        images = []
        for row in data:
            value = (row.get("data") or row.get("body")) if isinstance(row, dict) else row
            if isinstance(value, str):
                try:
                    value = base64.b64decode(value, validate=True)
                except binascii.Error as error:
                    raise PredictionException("the image is not base64 text", 400) from error
            if isinstance(value, bytes | bytearray):
                try:
                    images.append(type(self).image_processing(Image.open(io.BytesIO(value)).convert("RGB")))
                except (UnidentifiedImageError, OSError) as error:
                    raise PredictionException("the data is not an image in a known format", 400) from error
            elif isinstance(value, list):
                images.append(torch.tensor(value, dtype=torch.float32))
            else:
                raise PredictionException("each instance must be an image: {'data': base64 text}", 400)
        return torch.stack(images).to(self.device)


def to_tensor(image: Image.Image) -> Any:
    """Channels first, 0 to 1, as torchvision's ``ToTensor``."""
    raw = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return raw.view(image.height, image.width, 3).permute(2, 0, 1).float().div(255)


def resize(image: Image.Image, shorter_side: int) -> Image.Image:
    scale = shorter_side / min(image.size)
    width, height = (max(shorter_side, int(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def center_crop(image: Image.Image, side: int) -> Image.Image:
    left, top = round((image.width - side) / 2), round((image.height - side) / 2)
    return image.crop((left, top, left + side, top + side))
