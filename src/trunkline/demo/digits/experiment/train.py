"""Train the digit network: from the start, or on from the last checkpoint when there is one."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from data import is_held_out, jitter, read
from handler import encode
from model import DigitNet

from trunkline import training

BATCH = 64


def accuracy(network: DigitNet, pictures: torch.Tensor, labels: torch.Tensor) -> float:
    network.eval()
    with torch.no_grad():
        return (network(pictures).argmax(1) == labels).float().mean().item()


def save(folder: Path, network: DigitNet, example: Path, width: int) -> None:
    """What ``model.load`` reads, and one request with its answer, which a service must give before it gets traffic."""
    torch.save({"width": width, "network": network.state_dict()}, folder / "model.pt")
    golden = [
        {
            "request": {"instances": [encode(example)]},
            "expected": {"predictions": [int(example.name.split(".")[0])]},
        }
    ]
    (folder / "golden.json").write_text(json.dumps(golden))


def main() -> None:
    context = training.init()
    torch.manual_seed(context.seed)
    torch.set_num_threads(1)  # for so small a network a second thread costs more than it does
    hparams = context.hparams
    paths = sorted(context.data_path.rglob("*.png"))
    train_pictures, train_labels = read([path for path in paths if not is_held_out(path)])
    held_out = [path for path in paths if is_held_out(path)]
    held_pictures, held_labels = read(held_out)
    print(
        f"{len(train_labels)} pictures to learn from, {len(held_labels)} held out, {len(context.new_files)} of them new"
    )

    network = DigitNet(hparams["width"])
    epochs, first_epoch = hparams["epochs"], 0
    if context.latest_checkpoint is not None:
        state = torch.load(context.latest_checkpoint / "model.pt", weights_only=True)
        network.load_state_dict(state["network"])
        if context.warm_start:
            epochs = hparams["epochs_when_continued"]
        else:
            first_epoch = context.steps_completed  # the trial was interrupted: one step is one epoch
        print(f"continued from {'the last model' if context.warm_start else f'epoch {first_epoch}'}")

    batches = -(-len(train_labels) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=hparams["learning_rate"], weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, hparams["learning_rate"], total_steps=max(1, epochs - first_epoch) * batches
    )
    for epoch in range(first_epoch + 1, epochs + 1):
        network.train()
        total = 0.0
        for batch in torch.randperm(len(train_labels)).split(BATCH):
            loss = torch.nn.functional.cross_entropy(
                network(jitter(train_pictures[batch])), train_labels[batch], label_smoothing=0.05
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(batch)
        context.report({"loss": total / len(train_labels)}, steps=epoch, group="training")
        if (
            epoch == epochs
        ):  # what is measured earlier, before the learning rate has come down, misleads the choice
            context.report({"accuracy": accuracy(network, held_pictures, held_labels)}, steps=epoch)
        if epoch % 5 == 0 or epoch == epochs:  # an interrupted training goes on from here
            network.eval()
            right = network(held_pictures).argmax(1) == held_labels
            example = next(
                (path for path, is_right in zip(held_out, right, strict=True) if is_right), held_out[0]
            )
            with context.checkpoint(steps=epoch) as folder:
                save(folder, network, example, hparams["width"])
        context.progress(epoch / epochs)
        if context.should_stop():
            return


if __name__ == "__main__":
    main()
