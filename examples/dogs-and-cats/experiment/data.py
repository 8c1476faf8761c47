"""The pictures of a commit: which files they are, their labels, and which of them are held out.

The label is the beginning of the file's own name (`cat.17.jpg`, `dog.4.jpg`); folders mean nothing. Files that are not
such pictures are left out, with one line each that says why.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from handler import decode, to_tensor

LABELS = {"cat": 1, "dog": 0}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One labelled file; `held_out` ones measure the model and are never trained on."""

    path: Path
    label: int
    held_out: bool


def is_held_out(name: str, fraction: float) -> bool:
    """Whether the picture of this name belongs to the hold-out: a fixed draw of `fraction` of all names.

    It depends on nothing but the name. A picture that was held out once is held out in every later commit, so a model
    that continues from an earlier one has never trained on what it is measured with.
    """
    draw = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return draw < fraction * 2**64


def find_pictures(root: Path, holdout_fraction: float) -> list[Picture]:
    """All files below `root` that are named like labelled pictures, in a stable order."""
    pictures = []
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        label = LABELS.get(path.name.partition(".")[0].lower()) if "." in path.name else None
        if label is None:
            print(
                f'skipped {path.relative_to(root)}: the name does not begin with "cat." or "dog."', flush=True
            )
            continue
        pictures.append(Picture(path=path, label=label, held_out=is_held_out(path.name, holdout_fraction)))
    return pictures


def load_batches(
    pictures: list[Picture], batch_size: int, root: Path
) -> Iterator[tuple[list[Picture], torch.Tensor]]:
    """The readable pictures and their prepared pixels, `batch_size` at a time: never all of them in memory."""
    kept: list[Picture] = []
    tensors: list[torch.Tensor] = []
    for picture in pictures:
        try:
            tensors.append(to_tensor(decode(picture.path.read_bytes())))
        except ValueError as error:
            print(f"skipped {picture.path.relative_to(root)}: {error}", flush=True)
            continue
        kept.append(picture)
        if len(kept) == batch_size:
            yield kept, torch.stack(tensors)
            kept, tensors = [], []
    if kept:
        yield kept, torch.stack(tensors)
