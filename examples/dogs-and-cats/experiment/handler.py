"""How a request becomes an answer: a handler in TorchServe's style, packed into the .mar beside the traced model.

A row is one instance of a V1 request, `{"data": "<base64 JPEG>"}` (`body` and bare base64 text are read too, and bytes
are taken as the picture itself). Its answer is one JSON number, the class: 1 for a cat, 0 for a dog, so that two
instances are answered `{"predictions": [1, 0]}`.

Training imports `decode` and `to_tensor` from here, so a picture can never be prepared in one way to train and in
another to predict. This file is packed alone: it imports nothing else of this folder.
"""

import base64
import binascii
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

SIDE = 224
PIXELS_MAX = 50_000_000  # a file of some kilobytes can unfold into gigabytes of pixels
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")

# Each of these comes from some damaged file: Pillow's readers do not translate their errors into one.
DECODE_ERRORS = (OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, EOFError, OverflowError)


def decode(content: bytes) -> Image.Image:
    """The picture in `content`, upright and in RGB; ValueError, saying why, when it is not a usable picture."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            too_large = picture.width * picture.height > PIXELS_MAX
            upright = None if too_large else ImageOps.exif_transpose(picture).convert("RGB")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        too_large, upright = True, None
    except UnidentifiedImageError:
        raise ValueError(f"not a picture ({len(content)} bytes, none of {', '.join(FORMATS)})") from None
    except DECODE_ERRORS as error:
        raise ValueError(f"a damaged picture ({error})") from error
    if too_large or upright is None:
        raise ValueError(f"a picture of more than {PIXELS_MAX} pixels; send a smaller one")
    return upright


def to_tensor(picture: Image.Image) -> torch.Tensor:
    """The network's input, float32 of shape (3, SIDE, SIDE) in -1..1, which is what its weights were trained on."""
    pixels = np.array(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.float32)
    return torch.from_numpy((pixels - 127.0) / 128.0).permute(2, 0, 1).contiguous()


def content_of(row: Any) -> bytes:
    """The bytes of the picture in one row of a request."""
    value = row
    if isinstance(row, Mapping):
        value = row.get("data") if row.get("data") is not None else row.get("body")
        if value is None:
            raise ValueError(
                f'no field "data" with a picture in base64; the fields are {sorted(map(str, row))}'
            )
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if not isinstance(value, str):
        raise ValueError(f"expected a picture as text in base64, got {type(value).__name__}")
    try:
        return base64.b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"the text is not base64 ({error})") from error


class DogCatHandler:
    """Answers a batch of rows with one class number each."""

    def __init__(self) -> None:
        self.model: torch.jit.ScriptModule | None = None

    def initialize(self, ctx: Any) -> None:
        """Load the traced model that the archive's manifest names."""
        folder = Path(ctx.system_properties["model_dir"])
        self.model = torch.jit.load(str(folder / ctx.manifest["model"]["serializedFile"]), map_location="cpu")
        self.model.eval()

    def handle(self, data: Sequence[Any] | None, ctx: Any) -> list[int]:
        """One class number for each row; ValueError, naming the row, when one is not a picture."""
        if self.model is None:
            raise RuntimeError("the handler was asked before initialize() loaded its model")
        if not data:
            return []
        with torch.inference_mode():
            scores = self.model(torch.stack([self._input(index, row) for index, row in enumerate(data)]))
        return [int(number) for number in scores.argmax(dim=1)]

    def _input(self, index: int, row: Any) -> torch.Tensor:
        try:
            return to_tensor(decode(content_of(row)))
        except ValueError as error:
            raise ValueError(f"instance {index}: {error}") from error
