"""Archives from strangers: what is wrong is said in one line, and nothing leaves the folder."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from trunkline.errors import InvalidInputError
from trunkline.serving.replica.mar import FILES_MAX, MANIFEST, extract, read_properties

MODEL = {"modelName": "digits", "serializedFile": "model.pt", "handler": "handler.py"}
GOOD = {
    MANIFEST: json.dumps({"model": MODEL}),
    "model.pt": "weights",
    "handler.py": "def handle(data, context): ...",
}


def zipped(path: Path, files: dict[str, Any]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tarred(path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def problem(file: Path, folder: Path) -> str:
    before = {p for p in file.parent.rglob("*") if folder not in p.parents and p != folder}
    with pytest.raises(InvalidInputError) as caught:
        extract(file, folder)
    after = {p for p in file.parent.rglob("*") if folder not in p.parents and p != folder}
    assert before == after, "something was written outside"
    text = str(caught.value)
    assert text.startswith(file.name) and "\n" not in text
    return text.removeprefix(file.name).strip()


def test_a_good_one_in_both_forms(tmp_path: Path) -> None:
    archive = extract(zipped(tmp_path / "digits.mar", GOOD), tmp_path / "zip")
    assert (archive.model_name, archive.handler, archive.yaml_config) == ("digits", "handler.py", {})
    members = [(tarfile.TarInfo(f"./{name}"), text.encode()) for name, text in GOOD.items()]
    archive = extract(tarred(tmp_path / "tar.mar", members), tmp_path / "tar")
    assert (archive.folder / "model.pt").read_text() == "weights"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({MANIFEST: None}, f"has no {MANIFEST}"),
        ({MANIFEST: "no json"}, "is not a JSON object"),
        ({MANIFEST: "[]"}, "is not a JSON object"),
        ({MANIFEST: json.dumps({"model": {**MODEL, "handler": ""}})}, "has no handler: pack it with"),
        ({MANIFEST: json.dumps({"model": {**MODEL, "handler": 5}})}, "model.handler is not a string"),
        ({"handler.py": None}, "names handler 'handler.py', which is not in the archive"),
        ({"model.pt": None}, "names serializedFile 'model.pt', which is not in the archive"),
        ({MANIFEST: json.dumps({"model": {**MODEL, "serializedFile": "/etc/passwd"}})}, "names serializedFile '/etc/passwd'"),
        ({MANIFEST: json.dumps({"model": {**MODEL, "configFile": "c.yaml"}}), "c.yaml": "a: [b"}, "c.yaml that is not YAML"),
        ({"../evil.py": "x"}, "leads out of its folder"),
        ({"/tmp/evil.py": "x"}, "leads out of its folder"),
        ({"a\\..\\..\\evil.py": "x"}, "leads out of its folder"),
        ({"model.pt/inside": "x"}, "both as a file and as a folder"),
        ({"zeros": bytes(200 * 2**20)}, "too much for its size"),
        ({f"f{n}": "" for n in range(FILES_MAX)}, "more than 10000 files"),
    ],
)  # fmt: skip
def test_bad_zips(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    files = {k: v for k, v in {**GOOD, **change}.items() if v is not None}
    assert words in problem(zipped(tmp_path / "bad.mar", files), tmp_path / "out")


def test_links_in_zips(tmp_path: Path) -> None:
    path = zipped(tmp_path / "bad.mar", GOOD)
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    assert "is a link or device" in problem(path, tmp_path / "out")


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        (tarfile.SYMTYPE, "link", "is a link, device or sparse file"),
        (tarfile.LNKTYPE, "link", "is a link, device or sparse file"),
        (tarfile.CHRTYPE, "device", "is a link, device or sparse file"),
        (tarfile.FIFOTYPE, "pipe", "is a link, device or sparse file"),
        (tarfile.REGTYPE, "../../evil", "leads out of its folder"),
        (tarfile.REGTYPE, "/tmp/evil", "leads out of its folder"),
    ],
)
def test_bad_tars(tmp_path: Path, kind: bytes, name: str, words: str) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    assert words in problem(tarred(tmp_path / "bad.mar", [(info, b"")]), tmp_path / "out")


@pytest.mark.slow
def test_a_tar_bomb_and_a_huge_header(tmp_path: Path) -> None:
    bomb = tarred(tmp_path / "bomb.mar", [(tarfile.TarInfo("zeros"), bytes(200 * 2**20))])
    assert "too much for its size" in problem(bomb, tmp_path / "out")
    info = tarfile.TarInfo("././@PaxHeader")
    info.type = tarfile.XHDTYPE
    header = tarred(tmp_path / "header.mar", [(info, bytes(32 * 2**20))])
    assert "claims to be huge" in problem(header, tmp_path / "out2")


@pytest.mark.parametrize("content", [b"", b"MZ\x00\x00", b"PK\x03\x04 cut off", b"\x1f\x8b cut off"])
def test_no_archive_at_all(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.mar"
    path.write_bytes(content)
    assert "is damaged" in (text := problem(path, tmp_path / "out")) or "neither a zip nor a tgz" in text


def test_the_snapshot_of_a_config(tmp_path: Path) -> None:
    path = tmp_path / "config.properties"
    path.write_text(
        "# comment\ninference_address=http://0.0.0.0:8085\nenable_envvars_config=true\n"
        'model_snapshot={"name":"startup.cfg","modelCount":1,"models":{"dogs-and-cats":{"1.0":\\\n'
        '{"defaultVersion":true,"marName":"dogs-and-cats.mar","minWorkers":1,"batchSize":4}}}}\n'
    )
    (found,) = read_properties(path)
    assert (found.name, found.file, found.batch_size) == ("dogs-and-cats", "dogs-and-cats.mar", 4)
    path.write_text("model_snapshot={broken")
    with pytest.raises(InvalidInputError, match="model_snapshot is not JSON"):
        read_properties(path)
    path.write_text("load_models=all\n")
    assert read_properties(path) == []
