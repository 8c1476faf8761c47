"""Buckets, listings and documents."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.doors.s3.signing import S3, error_of, texts
from trunkline.doors.s3.buckets import bucket_name, parse_bucket
from trunkline.doors.s3.errors import CLASSES, KINDS, S3Error, translate
from trunkline.doors.s3.xmltext import parse
from trunkline.errors import NotFoundError, TrunklineError
from trunkline.services import Services
from trunkline.versioning.model import PutFile

pytestmark = pytest.mark.slow

ID = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("images", "default/images@master"), ("dev.images", "default/images@dev"), ("dev.images.vision", "vision/images@dev"),
        (f"{ID}.images", f"default/images@{ID}"), (f"{ID}.dev.images", f"default/images@dev={ID}"),
        (f"{ID}.dev.images.vision", f"vision/images@dev={ID}"), ("default.images", "default/images@default"),
        (f"{ID}", f"default/{ID}@master"),
    ],
)  # fmt: skip
def test_names_of_buckets(name: str, address: str) -> None:
    assert parse_bucket(name).address == address


@pytest.mark.parametrize(
    "name", ["", ".", "a.", ".a", "a..b", "a.b.c.d", f"{ID}.a.b.c.d", "ä", "a b", "a/b", "x" * 200, f"{ID}."]
)
def test_names_that_no_bucket_can_have(name: str) -> None:
    with pytest.raises((S3Error, TrunklineError)) as found:
        parse_bucket(name)
    error = found.value if isinstance(found.value, S3Error) else translate(found.value)
    assert error.code == "InvalidBucketName"


def test_listed_names_lead_back() -> None:
    for where in (("default", "r", "b"), ("vision", "r", "default"), ("p", "master", "b")):
        bucket = parse_bucket(bucket_name(*where))
        assert (bucket.project, bucket.repo, bucket.branch) == where


def test_buckets_come_and_go(s3: S3, services: Services) -> None:
    services.versioning.create_project("vision")
    assert s3("PUT", "/dev.scans.vision").status_code == 200
    assert error_of(s3("PUT", "/dev.scans.vision")) == (409, "BucketAlreadyOwnedByYou")
    assert s3("PUT", "/other.images", data=b"<CreateBucketConfiguration/>").status_code == 200
    assert texts(s3("GET", "/"), "Buckets/Bucket/Name") == [
        "dev.scans.vision",
        "master.images",
        "other.images",
    ]
    assert s3("HEAD", "/dev.scans.vision").status_code == 200
    assert texts(s3("GET", "/dev.scans.vision"), "KeyCount") == []
    s3("PUT", "/dev.scans.vision/a", data=b"1")
    assert error_of(s3("DELETE", "/dev.scans.vision")) == (409, "BucketNotEmpty")
    s3("DELETE", "/dev.scans.vision/a")
    assert s3("DELETE", "/dev.scans.vision").status_code == 204
    for method, path in (("GET", ""), ("PUT", "/a"), ("GET", "/a"), ("DELETE", ""), ("DELETE", "/a")):
        assert error_of(s3(method, f"/dev.scans.vision{path}", data=b"1" if method == "PUT" else b"")) == (
            404,
            "NoSuchBucket",
        )
    assert error_of(s3("PUT", "/x.y.nowhere")) == (404, "NoSuchBucket")
    assert error_of(s3("PUT", f"/{ID}.dev.scans")) == (400, "InvalidBucketName")
    assert s3("HEAD", "/nothing").status_code == 404
    assert s3("HEAD", "/nothing").content == b""


def test_a_new_repo_is_a_bucket_already(s3: S3, services: Services) -> None:
    services.versioning.create_repo("default", "new")
    assert "master.new" in texts(s3("GET", "/"), "Buckets/Bucket/Name")
    assert texts(s3("GET", "/new"), "IsTruncated") == ["false"]
    assert error_of(s3("GET", "/other.new")) == (404, "NoSuchBucket")
    assert s3("PUT", "/new/a", data=b"1").status_code == 200
    assert s3("DELETE", "/new/a").status_code == 204
    assert s3("DELETE", "/new").status_code == 204
    assert s3("HEAD", "/new").status_code == 404, "it has commits, and no branch"
    assert "master.new" not in texts(s3("GET", "/"), "Buckets/Bucket/Name")
    for _ in range(2):
        assert s3("PUT", "/brief").status_code == 200
        assert s3("DELETE", "/brief").status_code == 204
        assert s3("HEAD", "/brief").status_code == 404


def test_small_things_that_clients_ask(s3: S3) -> None:
    assert b"<LocationConstraint" in s3("GET", "/images", query={"location": ""}).content
    assert texts(s3("GET", "/images", query={"versioning": ""}), "Status") == ["Enabled"]
    on = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
    assert s3("PUT", "/images", query={"versioning": ""}, data=on).status_code == 200
    off = on.replace(b"Enabled", b"Suspended")
    assert s3("PUT", "/images", query={"versioning": ""}, data=off).status_code == 400
    s3("PUT", "/images/a", data=b"1")
    assert texts(s3("GET", "/images/a", query={"tagging": ""}), "TagSet") == [""]
    for method, path, word in (
        ("GET", "/images", "acl"), ("PUT", "/images", "policy"), ("GET", "/images", "cors"), ("GET", "/images", "versions"),
        ("PUT", "/images/a", "tagging"), ("GET", "/images/a", "acl"), ("DELETE", "/images/a", "tagging"),
        ("POST", "/images/a", "select"),
    ):  # fmt: skip
        assert error_of(s3(method, path, query={word: ""})) == (501, "NotImplemented")
    for method, path in (
        ("POST", "/images/a"),
        ("PATCH", "/images/a"),
        ("OPTIONS", "/images"),
        ("DELETE", "/"),
        ("PUT", "/"),
    ):
        assert error_of(s3(method, path)) == (405, "MethodNotAllowed")
    assert s3("GET", "/images/a").content == b"1", "nothing of that wrote to the object"


def test_the_bucket_may_be_in_the_host_name(s3: S3) -> None:
    s3("PUT", "/images/a/b", data=b"1")
    s3.client.base_url = "http://master.images.localhost:30600"  # type: ignore[assignment]
    assert s3("GET", "/a/b").content == b"1"
    assert texts(s3("GET", "/"), "Contents/Key") == ["a/b"]


# --- listings -----------------------------------------------------------------------------------------------------

KEYS = ["a", "a.txt", "a0", "b/1", "b/2", "b/c/3", "b0", "c/d/e/f", "d+e", "ü/x", "z"]


@pytest.fixture
def filled(s3: S3, services: Services) -> S3:
    services.versioning.modify(
        "default", "images", [PutFile(path="/" + key, parts=[key.encode()]) for key in KEYS]
    )
    return s3


def _pages(s3: S3, version: int, **query: str) -> list[str]:
    """All pages: keys, and common prefixes marked with a star, in the order in which they come."""
    found: list[str] = []
    position: dict[str, str] = {}
    for _ in range(100):
        more = {"list-type": "2"} if version == 2 else {}
        page = s3("GET", "/images", query={**query, **more, **position})
        assert page.status_code == 200, page.text
        keys, prefixes = texts(page, "Contents/Key"), texts(page, "CommonPrefixes/Prefix")
        found += sorted(
            [*keys, *(one + "*" for one in prefixes)], key=lambda one: one.removesuffix("*").encode()
        )
        if version == 2:
            assert texts(page, "KeyCount") == [str(len(keys) + len(prefixes))]
        if texts(page, "IsTruncated") == ["false"]:
            return found
        if version == 2:
            position = {"continuation-token": texts(page, "NextContinuationToken")[0]}
        else:
            position = {"marker": texts(page, "NextMarker")[0]}
    raise AssertionError("it never ends")


def _expected(prefix: str, delimiter: str, after: str = "") -> list[str]:
    """What S3's documentation says, done slowly."""
    found: list[str] = []
    for key in sorted(KEYS, key=str.encode):
        if not key.startswith(prefix) or key.encode() <= after.encode():
            continue
        at = key.find(delimiter, len(prefix)) if delimiter else -1
        item = key if at < 0 else key[: at + len(delimiter)] + "*"
        if item not in found and item != after + "*":
            found.append(item)
    return found


SHAPES = [
    ("", ""), ("", "/"), ("b", ""), ("b", "/"), ("b/", "/"), ("b/c", "/"), ("c/d/e/f", "/"), ("nothing", "/"), ("ü", "/"),
    ("", "+"),
    ("", "c/"), ("a", "."), ("", "/1"),
]  # fmt: skip
"""Prefixes and delimiters."""


@pytest.mark.parametrize("version", [1, 2])
def test_listing_in_pages(filled: S3, version: int) -> None:
    for prefix, delimiter in SHAPES:
        for size in ("1", "3", "999999"):
            query = {"prefix": prefix, "max-keys": size} | ({"delimiter": delimiter} if delimiter else {})
            assert _pages(filled, version, **query) == _expected(prefix, delimiter), query


@given(
    prefix=st.sampled_from(["", "a", "b", "b/", "b/c/", "z", "zz"]), delimiter=st.sampled_from(["", "/", "0"]),
    after=st.sampled_from(["", "0", "a", "a.", "b/", "b/1", "b/c", "b/c/", "c", "d+e", "ü", "ü/", "zz"]),
)  # fmt: skip
def test_listing_from_somewhere(prefix: str, delimiter: str, after: str) -> None:
    from trunkline.versioning import views
    from trunkline.versioning.nodes import EMPTY_LEAF, EMPTY_ROOT, Entry, decode_tree
    from trunkline.versioning.trees import edit

    stored: dict[bytes, bytes] = {EMPTY_ROOT: EMPTY_LEAF}

    def put(data: bytes) -> bytes:
        from trunkline.core.hashing import digest

        stored[digest(data)] = data
        return digest(data)

    def load(name: bytes):  # type: ignore[no-untyped-def]
        return decode_tree(stored[name])

    edits = [
        (key.encode(), Entry(key.encode(), 0, bytes(32), 0, None, False))
        for key in sorted(KEYS, key=str.encode)
    ]
    root = edit(load, put, EMPTY_ROOT, edits).hash
    found = views.scan(load, root, prefix.encode(), delimiter.encode(), after.encode())
    assert [key + ("*" if info is None else "") for key, info in found] == _expected(prefix, delimiter, after)


def test_start_after_owner_and_sizes(filled: S3) -> None:
    page = filled(
        "GET", "/images", query={"list-type": "2", "start-after": "c", "fetch-owner": "true", "max-keys": "2"}
    )
    assert texts(page, "Contents/Key") == ["c/d/e/f", "d+e"]
    assert texts(page, "Contents/Owner/ID") == ["trunkline"] * 2
    assert texts(page, "Contents/Size") == ["7", "3"]
    assert texts(page, "StartAfter") == ["c"]
    none = filled("GET", "/images", query={"list-type": "2", "max-keys": "0"})
    assert (texts(none, "IsTruncated"), texts(none, "KeyCount")) == (["false"], ["0"])


MEANINGLESS = [
    {"max-keys": "-1"}, {"max-keys": "x"}, {"max-keys": "99999999999"}, {"encoding-type": "base64"}, {"list-type": "3"},
    {"list-type": "2", "continuation-token": "%%%"}, {"list-type": "2", "continuation-token": "gICA"}, {"prefix": "x" * 9000},
]  # fmt: skip


def test_listings_that_cannot_be_meant(filled: S3) -> None:
    for query in MEANINGLESS:
        assert error_of(filled("GET", "/images", query=query)) == (400, "InvalidArgument")


# --- documents ----------------------------------------------------------------------------------------------------


MALFORMED = [
    b"", b"not xml", b"<Delete>", b"<Other/>", b"<Delete></Other>", b"\xff\xfe", b"<Delete/>",
    b'<!DOCTYPE x [<!ENTITY a "aaaa">]><Delete><Object><Key>&a;</Key></Object></Delete>',
    b'<!DOCTYPE x SYSTEM "file:///etc/passwd"><Delete/>', b"<Delete>" * 40, b"<Delete>&undefined;</Delete>",
    b"<Delete>" + b"<Object><Key>k</Key></Object>" * 1001 + b"</Delete>",
]  # fmt: skip


def test_malformed_documents(s3: S3) -> None:
    for text in MALFORMED:
        assert error_of(s3("POST", "/images", query={"delete": ""}, data=text)) == (400, "MalformedXML")


def test_documents_are_bounded(s3: S3) -> None:
    text = b"<Delete>" + b" " * (9 * 2**20) + b"</Delete>"
    assert error_of(s3("POST", "/images", query={"delete": ""}, data=text)) == (413, "EntityTooLarge")


@given(st.binary(max_size=200))
def test_no_document_breaks_the_parser(data: bytes) -> None:
    try:
        parse(data, "Delete")
    except S3Error as error:
        assert error.code == "MalformedXML"


def test_every_error_class_has_a_code() -> None:
    def below(kind: type) -> set[type]:
        return {kind, *(one for child in kind.__subclasses__() for one in below(child))}

    for kind in below(TrunklineError) - {TrunklineError}:
        assert translate(kind("x")).code  # type: ignore[call-arg]
    assert translate(NotFoundError("x", kind="no_file")).code == KINDS["no_file"][0]
    assert all(400 <= status < 600 for _, status in CLASSES.values())


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_no_uri_breaks_the_door(path: bytes, query: bytes) -> None:
    from trunkline.doors.s3.signature import decode_uri, parse_query

    for work, data in ((decode_uri, path), (parse_query, query)):
        try:
            work(data)  # type: ignore[operator]
        except S3Error as error:
            assert error.code == "InvalidURI"


def test_a_tag_stands_where_a_branch_does(s3: S3, services: Services) -> None:
    made = services.versioning.modify("default", "images@master", [PutFile(path="/a", parts=[b"1"])])
    services.versioning.modify("default", "images@master", [PutFile(path="/a", parts=[b"2"])])
    for name in ("v1", "v1.0"):
        services.versioning.create_tag("default", f"images@{name}", commit=made.id)
    assert s3("GET", "/v1.images/a").content == b"1"
    assert error_of(s3("PUT", "/v1.images/a", data=b"3"))[0] == 403
    assert s3("GET", f"/{made.id}.images/a").content == b"1"
    assert error_of(s3("GET", "/v1.0.images/a"))[0] == 404
