"""Objects in parts."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.conftest import FakeClock
from tests.doors.s3.signing import S3, error_of, texts
from trunkline.errors import NotFoundError
from trunkline.services import Services, build
from trunkline.versioning.model import PutFile


def _start(s3: S3, key: str = "big.bin") -> str:
    return texts(s3("POST", f"/images/{key}", query={"uploads": ""}), "UploadId")[0]


def _part(s3: S3, upload: str, number: int, data: bytes, key: str = "big.bin") -> str:
    put = s3("PUT", f"/images/{key}", query={"partNumber": str(number), "uploadId": upload}, data=data)
    assert put.status_code == 200, put.text
    return put.headers["etag"]


def _complete(s3: S3, upload: str, parts: list[tuple[int, str]], key: str = "big.bin"):  # type: ignore[no-untyped-def]
    body = "".join(f"<Part><PartNumber>{n}</PartNumber><ETag>{tag}</ETag></Part>" for n, tag in parts)
    text = f'<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{body}</CompleteMultipartUpload>'
    return s3("POST", f"/images/{key}", query={"uploadId": upload}, data=text.encode())


def test_parts_in_any_order_make_one_object_and_one_commit(s3: S3, services: Services) -> None:
    rng = random.Random(1)
    data = {number: rng.randbytes(1_500_000) for number in (1, 2, 3, 7)}
    upload = _start(s3)
    tags = {number: _part(s3, upload, number, data[number]) for number in (7, 2, 1, 3)}
    tags[2] = _part(s3, upload, 2, data[2] + b"again")
    assert s3("HEAD", "/images/big.bin").status_code == 404, "nothing is there before it is complete"
    done = _complete(s3, upload, sorted(tags.items()))
    assert done.status_code == 200, done.text
    whole = data[1] + data[2] + b"again" + data[3] + data[7]
    assert s3("GET", "/images/big.bin").content == whole
    put = s3("PUT", "/images/same.bin", data=whole)
    assert texts(done, "ETag") == [put.headers["etag"]], "as if it had been put at once"
    assert len(services.versioning.list_commits("default", "images")) == 2
    again = _complete(s3, upload, sorted(tags.items()))
    assert (again.status_code, texts(again, "ETag")) == (200, texts(done, "ETag")), (
        "a lost answer may be asked for again"
    )
    assert len(services.versioning.list_commits("default", "images")) == 2
    assert error_of(s3("DELETE", "/images/big.bin", query={"uploadId": upload})) == (404, "NoSuchUpload")


def test_wrong_parts(s3: S3) -> None:
    upload = _start(s3)
    one, two = _part(s3, upload, 1, b"1"), _part(s3, upload, 2, b"2")
    for parts, code in (
        ([(2, two), (1, one)], "InvalidPartOrder"), ([(1, one), (1, one)], "InvalidPartOrder"), ([(1, two)], "InvalidPart"),
        ([(1, one), (3, two)], "InvalidPart"), ([], "InvalidPart"),
    ):  # fmt: skip
        assert error_of(_complete(s3, upload, parts)) == (400, code)
    for number in ("0", "10001", "-1", "x", ""):
        wrong = s3("PUT", "/images/big.bin", query={"partNumber": number, "uploadId": upload}, data=b"x")
        assert error_of(wrong) == (400, "InvalidArgument")
    elsewhere = s3("PUT", "/images/other", query={"partNumber": "1", "uploadId": upload}, data=b"x")
    assert error_of(elsewhere) == (404, "NoSuchUpload")
    assert error_of(_complete(s3, "f" * 32, [(1, one)])) == (404, "NoSuchUpload")
    assert _complete(s3, upload, [(1, one)]).status_code == 200
    assert s3("GET", "/images/big.bin").content == b"1", "parts that are not listed are left out"


def test_aborted(s3: S3) -> None:
    upload = _start(s3)
    _part(s3, upload, 1, b"1")
    assert s3("DELETE", "/images/big.bin", query={"uploadId": upload}).status_code == 204
    assert error_of(s3("DELETE", "/images/big.bin", query={"uploadId": upload})) == (404, "NoSuchUpload")
    late = s3("PUT", "/images/big.bin", query={"partNumber": "1", "uploadId": upload}, data=b"x")
    assert error_of(late) == (404, "NoSuchUpload")
    assert s3("HEAD", "/images/big.bin").status_code == 404


def test_listing_parts_and_uploads(s3: S3) -> None:
    upload = _start(s3)
    for number in (5, 1, 3):
        _part(s3, upload, number, bytes(number))
    page = s3("GET", "/images/big.bin", query={"uploadId": upload, "max-parts": "2"})
    assert (texts(page, "Part/PartNumber"), texts(page, "Part/Size"), texts(page, "IsTruncated")) == (
        ["1", "3"],
        ["1", "3"],
        ["true"],
    )
    rest = s3(
        "GET",
        "/images/big.bin",
        query={"uploadId": upload, "part-number-marker": texts(page, "NextPartNumberMarker")[0]},
    )
    assert (texts(rest, "Part/PartNumber"), texts(rest, "IsTruncated")) == (["5"], ["false"])
    others = [_start(s3, "a/ü"), _start(s3, "a/ü"), _start(s3, "b_1"), _start(s3, "bx1")]
    found: list[tuple[str, str]] = []
    position: dict[str, str] = {}
    while True:
        page = s3("GET", "/images", query={"uploads": "", "max-uploads": "1", **position})
        found += zip(texts(page, "Upload/Key"), texts(page, "Upload/UploadId"), strict=True)
        if texts(page, "IsTruncated") == ["false"]:
            break
        position = {
            "key-marker": texts(page, "NextKeyMarker")[0],
            "upload-id-marker": texts(page, "NextUploadIdMarker")[0],
        }
    assert sorted(found) == found and {one for _, one in found} == {upload, *others}
    only = s3("GET", "/images", query={"uploads": "", "prefix": "b_"})
    assert texts(only, "Upload/Key") == ["b_1"], "an underscore is an underscore"


def test_parts_copied_from_objects(s3: S3) -> None:
    data = random.Random(2).randbytes(3_000_000)
    s3("PUT", "/images/source", data=data)
    upload = _start(s3)

    def copy(number: int, **headers: str):  # type: ignore[no-untyped-def]
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        return s3(
            "PUT", "/images/big.bin", query={"partNumber": str(number), "uploadId": upload},
            headers={"x-amz-copy-source": "/master.images/source", **more},
        )  # fmt: skip

    whole, some = copy(1), copy(2, x_amz_copy_source_range="bytes=100-2000099")
    tags = [(1, texts(whole, "ETag")[0]), (2, texts(some, "ETag")[0])]
    assert _complete(s3, upload, tags).status_code == 200
    assert s3("GET", "/images/big.bin").content == data + data[100:2_000_100]
    upload = _start(s3)
    for wrong in ("bytes=9000000-", "nonsense", "bytes=5-2"):
        assert error_of(copy(1, x_amz_copy_source_range=wrong)) == (400, "InvalidArgument")


def test_a_restart_in_the_middle_loses_nothing(s3: S3, services: Services) -> None:
    data = random.Random(4).randbytes(2_500_000)
    upload = services.versioning.start_upload("default", "images@master", "/x")
    first = services.versioning.put_part(upload.id, 1, [data[:1_200_000]])
    again = build(services.settings)
    second = again.versioning.put_part(upload.id, 2, [data[1_200_000:]])
    commit, info = again.versioning.complete_upload(upload.id, [(1, first.hash), (2, second.hash)])
    assert b"".join(again.versioning.read(commit.root, "/x")) == data and info.size == len(data)  # type: ignore[arg-type]
    again.db.close()


def test_uploads_expire_and_go_with_their_repo(services: Services, tmp_path: Path) -> None:
    clock = FakeClock()
    (tmp_path / "other").mkdir()
    found = build(services.settings.model_copy(update={"home": tmp_path / "other"}), clock=clock)
    versioning = found.versioning
    versioning.create_repo("default", "r")
    upload = versioning.start_upload("default", "r@master", "/x")
    clock.advance(6 * 24 * 3600)
    versioning.put_part(upload.id, 1, [b"1"])
    clock.advance(6 * 24 * 3600)
    assert [part.number for part in versioning.list_parts(upload.id)] == [1], "each part prolongs it"
    clock.advance(2 * 24 * 3600)
    with pytest.raises(NotFoundError):
        versioning.put_part(upload.id, 2, [b"1"])
    other = versioning.start_upload("default", "r@master", "/x")
    versioning.delete_repo("default", "r")
    versioning.create_repo("default", "r")
    with pytest.raises(NotFoundError):
        versioning.inspect_upload(other.id)
    found.db.close()


def test_an_upload_into_an_open_commit(s3: S3, services: Services) -> None:
    opened = services.versioning.start_commit("default", "images@master")
    bucket = f"/{opened.id}.master.images"
    upload = texts(s3("POST", f"{bucket}/k", query={"uploads": ""}), "UploadId")[0]
    put = s3("PUT", f"{bucket}/k", query={"partNumber": "1", "uploadId": upload}, data=b"1")
    part = f"<Part><PartNumber>1</PartNumber><ETag>{put.headers['etag']}</ETag></Part>"
    body = f"<CompleteMultipartUpload>{part}</CompleteMultipartUpload>"
    assert s3("POST", f"{bucket}/k", query={"uploadId": upload}, data=body.encode()).status_code == 200
    services.versioning.finish_commit("default", "images@master")
    assert s3("GET", "/images/k").content == b"1"
    assert error_of(s3("POST", f"{bucket}/k2", query={"uploads": ""})) == (403, "AccessDenied")


def test_join_of_files_names_what_is_missing(services: Services) -> None:
    from trunkline.versioning.model import JoinFiles

    root = services.versioning.stage([PutFile(path="/a", parts=[b"1"])]).root
    with pytest.raises(NotFoundError, match="/b"):
        services.versioning.modify(
            "default", "images", [JoinFiles(path="/x", sources=[(root, "/a"), (root, "/b")])]
        )
