"""Answers prediction requests: pictures in, digits out."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError


def encode(path: Path) -> dict[str, str]:
    """A picture as one instance of a request."""
    return {"data": base64.b64encode(path.read_bytes()).decode()}


class DigitHandler:
    """``{"instances": [{"data": "<base64 PNG>"}]}`` -> ``{"predictions": [7]}``."""

    def initialize(self, context: Any) -> None:
        folder = Path(context.system_properties["model_dir"])
        serialized = context.manifest["model"]["serializedFile"]
        self.model = torch.jit.load(folder / serialized, map_location="cpu").eval()

    def handle(self, rows: list[dict[str, Any]], _context: Any) -> list[int]:
        pictures = torch.stack([self._decode(row.get("data") or row.get("body")) for row in rows])
        with torch.inference_mode():
            return [int(digit) for digit in self.model(pictures).argmax(1)]

    @staticmethod
    def _decode(value: Any) -> torch.Tensor:
        if isinstance(value, dict):
            value = value.get("data")
        try:
            raw = base64.b64decode(value) if isinstance(value, str) else bytes(value)
            picture = Image.open(io.BytesIO(raw)).convert("L").resize((8, 8))
        except (ValueError, TypeError, UnidentifiedImageError) as error:
            raise ValueError('each instance must be {"data": "<base64 of a PNG or JPEG picture>"}') from error
        return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255).unsqueeze(0)
