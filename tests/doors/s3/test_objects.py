"""Objects through the door, without a network: what is put is got, and errors are S3's."""

from __future__ import annotations

import base64
import hashlib
import sys
from urllib.parse import quote

import pytest
from starlette.testclient import TestClient

from tests.doors.s3.signing import S3, chunked, crc32, error_of, signed_chunks, texts
from trunkline.services import Services


def _put(s3: S3, key: str, data: bytes = b"x", **headers: str) -> None:
    response = s3(
        "PUT",
        f"/master.images/{key}",
        data=data,
        headers={k.replace("_", "-"): v for k, v in headers.items()},
    )
    assert response.status_code == 200, response.text


def _commits(services: Services) -> int:
    return len(services.versioning.list_commits("default", "images"))


def test_put_get_head_delete(s3: S3, services: Services) -> None:
    data = b"hello, world"
    put = s3(
        "PUT",
        "/images/data/a.txt",
        data=data,
        headers={"content-md5": base64.b64encode(hashlib.md5(data).digest()).decode()},
    )
    assert put.status_code == 200, put.text
    assert put.headers["etag"].endswith('-1"')
    got = s3("GET", "/master.images.default/data/a.txt")
    assert (got.content, got.headers["content-type"], got.headers["etag"]) == (
        data,
        "text/plain",
        put.headers["etag"],
    )
    assert got.headers["x-amz-version-id"] == put.headers["x-amz-version-id"]
    assert got.headers["last-modified"].endswith("GMT")
    head = s3("HEAD", "/master.images/data/a.txt")
    assert (head.content, head.headers["content-length"]) == (b"", "12")
    assert _commits(services) == 1
    assert s3("DELETE", "/master.images/data/a.txt").status_code == 204
    assert error_of(s3("GET", "/master.images/data/a.txt")) == (404, "NoSuchKey")
    assert s3("HEAD", "/master.images/data/a.txt").status_code == 404
    assert _commits(services) == 2
    assert s3("DELETE", "/master.images/data/a.txt").status_code == 204, "absent is fine"
    assert _commits(services) == 2, "and no commit"


def test_an_older_version_is_a_commit(s3: S3) -> None:
    first = s3("PUT", "/images/a", data=b"one").headers["x-amz-version-id"]
    s3("PUT", "/images/a", data=b"two")
    assert s3("GET", "/images/a", query={"versionId": first}).content == b"one"
    assert s3("GET", f"/{first}.master.images/a").content == b"one"
    assert s3("GET", f"/{first}.images/a").content == b"one"
    assert s3("GET", f"/{first}.master.images.default/a").content == b"one"
    assert s3("GET", "/images/a").content == b"two"
    assert error_of(s3("PUT", f"/{first}.master.images/b", data=b"x")) == (403, "AccessDenied")
    assert "is finished" in s3("PUT", f"/{first}.master.images/b", data=b"x").text
    assert error_of(s3("GET", "/images/a", query={"versionId": "nonsense"})) == (400, "InvalidArgument")


def test_many_puts_are_one_commit_when_asked_for(s3: S3, services: Services) -> None:
    opened = services.versioning.start_commit("default", "images@master")
    for number in range(5):
        _put(s3, f"n{number}")
    assert s3("PUT", f"/{opened.id}.master.images/n5", data=b"x").status_code == 200
    assert s3("GET", "/images/n3").content == b"x", "what was written can be read at once"
    assert _commits(services) == 1
    services.versioning.finish_commit("default", "images@master")
    assert texts(s3("GET", "/images"), "Contents/Key") == [f"n{n}" for n in range(6)]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-3", b"0123"), ("bytes=5-", b"56789"), ("bytes=-3", b"789"), ("bytes=8-100", b"89"),
        ("bytes=-100", b"0123456789"),
    ],
)  # fmt: skip
def test_ranges(s3: S3, header: str, expected: bytes) -> None:
    _put(s3, "a", b"0123456789")
    got = s3("GET", "/images/a", headers={"range": header})
    assert (got.status_code, got.content) == (206, expected)
    assert got.headers["content-range"].endswith("/10")
    assert s3("HEAD", "/images/a", headers={"range": header}).headers["content-length"] == str(len(expected))


def test_a_range_behind_the_end(s3: S3) -> None:
    _put(s3, "a", b"0123456789")
    got = s3("GET", "/images/a", headers={"range": "bytes=10-"})
    assert error_of(got) == (416, "InvalidRange") and got.headers["content-range"] == "bytes */10"


def test_conditional_reads_and_overrides(s3: S3) -> None:
    _put(s3, "a.csv", b"1,2", x_amz_meta_mtime="1700000000.5")
    tag = s3("HEAD", "/images/a.csv").headers["etag"]
    assert s3("GET", "/images/a.csv", headers={"if-none-match": tag}).status_code == 304
    assert s3("GET", "/images/a.csv", headers={"if-match": f'"other", {tag}'}).status_code == 200
    assert error_of(s3("GET", "/images/a.csv", headers={"if-match": '"other"'})) == (
        412,
        "PreconditionFailed",
    )
    later, earlier = "Thu, 01 Jan 2032 00:00:00 GMT", "Thu, 01 Jan 2015 00:00:00 GMT"
    assert s3("GET", "/images/a.csv", headers={"if-modified-since": later}).status_code == 304
    assert s3("GET", "/images/a.csv", headers={"if-modified-since": earlier}).status_code == 200
    assert s3("GET", "/images/a.csv", headers={"if-unmodified-since": earlier}).status_code == 412
    assert s3("GET", "/images/a.csv", headers={"if-modified-since": "nonsense"}).status_code == 200
    got = s3(
        "GET",
        "/images/a.csv",
        query={"response-content-type": "x/y", "response-content-disposition": "attachment"},
    )
    assert (got.headers["content-type"], got.headers["content-disposition"]) == ("x/y", "attachment")
    assert error_of(s3("GET", "/images/a.csv", query={"response-expires": "a\r\nevil: 1"})) == (
        400,
        "InvalidArgument",
    )
    assert got.headers["last-modified"] == "Tue, 14 Nov 2023 22:13:20 GMT", (
        "the client's own modification time is kept"
    )
    assert got.headers["x-amz-meta-mtime"] == "1700000000.5"


def test_conditional_writes(s3: S3) -> None:
    assert s3("PUT", "/images/a", data=b"1", headers={"if-none-match": "*"}).status_code == 200
    assert error_of(s3("PUT", "/images/a", data=b"2", headers={"if-none-match": "*"})) == (
        412,
        "PreconditionFailed",
    )
    tag = s3("HEAD", "/images/a").headers["etag"]
    assert s3("PUT", "/images/a", data=b"3", headers={"if-match": tag}).status_code == 200
    assert s3("PUT", "/images/a", data=b"4", headers={"if-match": tag}).status_code == 412
    assert s3("GET", "/images/a").content == b"3"


def test_copies_are_made_here(s3: S3, services: Services) -> None:
    _put(s3, "dir/ä b+c", b"data")
    copied = s3("PUT", "/images/copy", headers={"x-amz-copy-source": "/master.images/dir/%C3%A4%20b%2Bc"})
    assert copied.status_code == 200 and texts(copied, "ETag") == [s3("HEAD", "/images/copy").headers["etag"]]
    assert s3("GET", "/images/copy").content == b"data"
    assert error_of(s3("PUT", "/images/c", headers={"x-amz-copy-source": "images/none"})) == (
        404,
        "NoSuchKey",
    )
    assert error_of(s3("PUT", "/images/c", headers={"x-amz-copy-source": "images"})) == (
        400,
        "InvalidArgument",
    )
    wrong = {"x-amz-copy-source": "images/copy", "x-amz-copy-source-if-none-match": "*"}
    assert error_of(s3("PUT", "/images/c", headers=wrong)) == (412, "PreconditionFailed")
    assert error_of(s3("PUT", "/images/dir", headers={"x-amz-copy-source": "images/copy"})) == (
        400,
        "InvalidRequest",
    )
    assert s3("GET", "/images/dir/ä b+c").content == b"data", "a file never replaces a directory"
    moved = {
        "x-amz-copy-source": "images/copy",
        "x-amz-metadata-directive": "REPLACE",
        "x-amz-meta-mtime": "1700000000",
    }
    assert s3("PUT", "/images/copy", headers=moved).status_code == 200
    assert s3("HEAD", "/images/copy").headers["x-amz-meta-mtime"] == "1700000000"


def test_directories_are_neither_files_nor_lost(s3: S3) -> None:
    _put(s3, "d/e/f", b"1")
    for key in ("d", "d/e", "d/e/f/g"):
        assert s3("HEAD", f"/images/{key}").status_code == 404
    for key in ("d", "d/e", "d/", "d/e/"):
        assert s3("DELETE", f"/images/{key}").status_code == 204
    assert s3("GET", "/images/d/e/f").content == b"1"
    assert error_of(s3("PUT", "/images/d/e", data=b"2")) == (400, "InvalidRequest")
    assert error_of(s3("PUT", "/images/d/e/f/g", data=b"2")) == (400, "InvalidRequest")
    marker = s3("HEAD", "/images/d/e/")
    assert (marker.status_code, marker.headers["content-length"]) == (200, "0")
    assert s3("GET", "/images/d/e/").content == b""
    assert s3("PUT", "/images/new/", data=b"").status_code == 200, "a marker of a directory is accepted"
    assert s3("HEAD", "/images/new/").status_code == 404, "and not kept"
    assert error_of(s3("PUT", "/images/new/", data=b"x")) == (400, "InvalidArgument")


def test_deleting_many_is_one_commit(s3: S3, services: Services) -> None:
    for key in ("a", "b", "c/d"):
        _put(s3, key)
    before = _commits(services)
    objects = "".join(f"<Object><Key>{key}</Key></Object>" for key in ("a", "c/d", "c", "none", "../x"))
    done = s3("POST", "/images", query={"delete": ""}, data=f"<Delete>{objects}</Delete>".encode())
    assert texts(done, "Deleted/Key") == ["a", "c/d", "c", "none", "../x"]
    assert texts(s3("GET", "/images"), "Contents/Key") == ["b"]
    assert _commits(services) == before + 1
    quiet = b'<Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Quiet>true</Quiet><Object><Key>b</Key></Object></Delete>'
    assert texts(s3("POST", "/images", query={"delete": ""}, data=quiet), "Deleted/Key") == []
    version = b"<Delete><Object><Key>b</Key><VersionId>1</VersionId></Object></Delete>"
    assert texts(s3("POST", "/images", query={"delete": ""}, data=version), "Error/Code") == [
        "NotImplemented"
    ]


IMPOSSIBLE = ["../x", "a/../b", "a//b", "/a", ".", "a/./b", "a\x01b", "x" * 300, "a/" * 3000 + "b"]


def test_keys_that_no_file_can_have(s3: S3, services: Services) -> None:
    for key in IMPOSSIBLE:
        path = "/images/" + key.replace("/", "%2F").replace(".", "%2E").replace("\x01", "%01")
        assert error_of(s3("PUT", path, data=b"x")) == (400, "InvalidArgument")
        assert error_of(s3("GET", path)) == (404, "NoSuchKey")
        assert s3("DELETE", path).status_code == 204
    assert _commits(services) == 0


ODD = [
    "ünï/códe", "日本語.txt", "a b", "a+b", "a%b", "a=b&c?d#e", "🎈", "e\u0301", "~-_.!*'()", "a\\b", "<&>\"'",
]  # fmt: skip


def test_odd_keys_come_back(s3: S3) -> None:
    for key in ODD:
        assert s3("PUT", "/images/" + quote(key), data=key.encode()).status_code == 200
        assert s3("GET", "/images/" + quote(key)).content == key.encode()
    assert texts(s3("GET", "/images"), "Contents/Key") == sorted(ODD, key=str.encode)
    encoded = texts(s3("GET", "/images", query={"encoding-type": "url"}), "Contents/Key")
    assert encoded == [quote(key, safe="/-_.~") for key in sorted(ODD, key=str.encode)]


# --- bodies -------------------------------------------------------------------------------------------------------

STREAMING = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"


def _streamed(s3: S3, body: bytes, size: int, **more: str) -> tuple[int, str]:
    headers = {"x-amz-content-sha256": STREAMING, "content-encoding": "aws-chunked", "x-amz-decoded-content-length": str(size),
               "x-amz-trailer": "x-amz-checksum-crc32", **more}  # fmt: skip
    response = s3("PUT", "/images/a", data=body, headers=headers)
    return (200, "") if response.status_code == 200 else error_of(response)


def test_bodies_in_unsigned_chunks(s3: S3) -> None:
    data = bytes(range(256)) * 1000
    assert _streamed(s3, chunked(data, 70_000, {"x-amz-checksum-crc32": crc32(data)}), len(data)) == (200, "")
    assert s3("GET", "/images/a").content == data
    assert s3("GET", "/images/a").headers.get("content-encoding") is None
    wrong = [
        (chunked(data, 70_000, {"x-amz-checksum-crc32": crc32(b"")}), len(data), "BadDigest"),
        (chunked(data, 70_000, {"x-amz-checksum-crc32": "?"}), len(data), "InvalidDigest"),
        (chunked(data, 70_000), len(data), "MalformedTrailerError"),
        (chunked(data, 70_000, {"x-amz-checksum-crc32": crc32(data)}), len(data) + 1, "IncompleteBody"),
        (
            chunked(data, 70_000, {"x-amz-checksum-crc32": crc32(data)})[:-100_000],
            len(data),
            "IncompleteBody",
        ),
        (chunked(data, 70_000, {"x-amz-checksum-crc32": crc32(data)}) + b"more", len(data), "InvalidRequest"),
        (b"zz\r\n" + data, len(data), "InvalidRequest"),
        (b"5\r\n1234567\r\n0\r\n\r\n", 7, "InvalidRequest"),
        (b"x" * 100_000, 7, "InvalidRequest"),
        (b"", 0, "IncompleteBody"),
    ]
    for body, size, code in wrong:
        assert _streamed(s3, body, size) == (400, code)
    assert s3("GET", "/images/a").content == data, "nothing of the wrong ones was kept"


@pytest.mark.parametrize("trailer", [False, True])
def test_bodies_in_signed_chunks(s3: S3, trailer: bool) -> None:
    data = bytes(range(256)) * 700
    mode = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" + ("-TRAILER" if trailer else "")
    headers = {
        "x-amz-content-sha256": mode,
        "x-amz-decoded-content-length": str(len(data)),
        "content-encoding": "aws-chunked",
    }
    if trailer:
        headers["x-amz-trailer"] = "x-amz-checksum-crc32"
    url, signed = s3.sign("PUT", "/images/a", {}, headers, b"")
    sums = {"x-amz-checksum-crc32": crc32(data)} if trailer else None
    body = signed_chunks(data, 65536, s3.secret, signed, sums)
    assert s3.client.request("PUT", url, content=body, headers=signed).status_code == 200
    assert s3("GET", "/images/a").content == data

    for wrong in (
        body.replace(b"\x01\x02\x03", b"\x01\x02\x04", 1),
        body.replace(b"signature:", b"signature:0", 1),
    ):
        if wrong != body:
            assert error_of(s3.client.request("PUT", url, content=wrong, headers=signed)) == (
                403,
                "SignatureDoesNotMatch",
            )
    plain = chunked(data, 65536, sums)
    assert error_of(s3.client.request("PUT", url, content=plain, headers=signed)) == (400, "InvalidRequest")


def test_checksums_of_plain_bodies(s3: S3) -> None:
    data = b"some content"
    good = {
        "x-amz-checksum-crc32": crc32(data),
        "x-amz-checksum-sha1": base64.b64encode(hashlib.sha1(data).digest()).decode(),
        "x-amz-checksum-sha256": base64.b64encode(hashlib.sha256(data).digest()).decode(),
        "content-md5": base64.b64encode(hashlib.md5(data).digest()).decode(),
    }
    for name, value in good.items():
        put = s3("PUT", "/images/a", data=data, headers={name: value})
        assert put.status_code == 200 and (name == "content-md5" or put.headers[name] == value)
        assert error_of(s3("PUT", "/images/b", data=b"other", headers={name: value})) == (400, "BadDigest")
        assert error_of(s3("PUT", "/images/b", data=data, headers={name: "$$$"})) == (400, "InvalidDigest")
    assert error_of(s3("PUT", "/images/b", data=data, headers={"x-amz-content-sha256": hashlib.sha256(b"").hexdigest()})) == (
        400, "XAmzContentSHA256Mismatch",
    )  # fmt: skip
    assert s3("HEAD", "/images/b").status_code == 404


CRCS = {"x-amz-checksum-crc32c": "E3069283", "x-amz-checksum-crc64nvme": "AE8B14860A799888"}
"""Of the nine digits, as their specifications give them."""


@pytest.mark.parametrize("name", CRCS)
def test_checksums_that_need_an_extra(s3: S3, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"123456789"
    value = base64.b64encode(bytes.fromhex(CRCS[name])).decode()
    body = chunked(data, 4, {name: value})
    pytest.importorskip("awscrt")
    put = s3("PUT", "/images/a", data=data, headers={name: value})
    assert put.status_code == 200 and put.headers[name] == value
    assert error_of(s3("PUT", "/images/b", data=b"other", headers={name: value})) == (400, "BadDigest")
    assert _streamed(s3, body, 9, **{"x-amz-trailer": name}) == (200, "")
    assert _streamed(s3, body.replace(b"56", b"65"), 9, **{"x-amz-trailer": name}) == (400, "BadDigest")
    monkeypatch.setitem(sys.modules, "awscrt", None)  # as if it were not installed
    put = s3("PUT", "/images/b", data=b"other", headers={name: value})
    assert put.status_code == 200 and name not in put.headers, "what was not verified is not confirmed"
    assert error_of(s3("PUT", "/images/b", data=data, headers={name: "$$$"})) == (400, "InvalidDigest")


def test_output_of_pipelines_is_read_only(s3: S3, services: Services) -> None:
    with services.db.write() as connection:
        services.versioning.create_owned_repo(connection, "default", "model", "pipeline:model", "")
    cause = services.versioning.modify("default", "images@x", [])
    with services.db.write() as connection:
        services.versioning.set_provenance(
            connection, "default", "model", "master", ["default/images@master"],
            commit_id=cause.id,
        )  # fmt: skip
    assert error_of(s3("PUT", "/master.model/a", data=b"x")) == (403, "AccessDenied")
    assert s3("GET", "/master.model").status_code == 200


def test_a_key_with_a_line_break_is_refused_as_s3_does(s3: S3) -> None:
    assert error_of(s3("PUT", "/master.images/a%0Ab")) == (400, "InvalidArgument")
    assert error_of(s3("GET", "/master.images/a%0Ab")) == (404, "NoSuchKey")


def test_an_answer_in_place_of_continue_ends_the_connection(s3: S3, client: TestClient) -> None:
    asks = {"expect": "100-continue"}
    refused = client.put("/images/key", content=b"x", headers=asks)
    assert (refused.status_code, refused.headers.get("connection")) == (403, "close")
    taken = s3("PUT", "/images/key", data=b"x", headers=asks)
    assert (taken.status_code, taken.headers.get("connection")) == (200, None)
