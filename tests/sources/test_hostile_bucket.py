"""A bucket server that lies: keys that lead out of the repo, objects of another size, an end in the middle."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler

import pytest

from tests.sources.conftest import WebServer
from tests.versioning.conftest import contents
from trunkline.errors import InvalidInputError, TrunklineError, UnavailableError
from trunkline.sources.bounds import Bounds
from trunkline.sources.places import LinkRules
from trunkline.sources.service import SourcesService
from trunkline.sources.web import Fetcher
from trunkline.storage.buckets import Buckets
from trunkline.versioning.service import VersioningService

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def sources(
    versioning: VersioningService, web: WebServer, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> SourcesService:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "canary-key")
    versioning.create_repo("default", "r")
    return SourcesService(
        versioning=versioning, fetcher=Fetcher(), buckets=Buckets(s3_endpoint=web.url), bounds=Bounds(),
        link_rules=LinkRules(data_dir=tmp_path),  # type: ignore[arg-type]
    )  # fmt: skip


def listing(web: WebServer, *keys: str, size: int = 4) -> None:
    items = "".join(
        f"<Contents><Key>{key}</Key><Size>{size}</Size><LastModified>{NOW:%Y-%m-%dT%H:%M:%S.000Z}</LastModified>"
        "<ETag>&quot;e&quot;</ETag></Contents>"
        for key in keys
    )
    body = f"<ListBucketResult><Name>bucket</Name><IsTruncated>false</IsTruncated>{items}</ListBucketResult>"
    web.serve("/bucket", body.encode(), Content_Type="application/xml")


def put(sources: SourcesService, versioning: VersioningService, url: str = "s3://bucket/in") -> None:
    versioning.modify("default", "r@master", sources.fetch(url, "/in", recursive=True))


@pytest.mark.parametrize(
    "key",
    [
        "in/../../etc/passwd",
        "in/..",
        "in//x",
        "in/./x",
        "in/a&#10;b",
        "in/" + "x" * 300,
        "in/" + "y/" * 3000 + "z",
    ],
)
def test_keys_that_are_no_paths_are_refused(
    sources: SourcesService, versioning: VersioningService, web: WebServer, key: str
) -> None:
    listing(web, "in/fine", key)
    for path in ("/bucket/in/fine", f"/bucket/{key}"):
        web.serve(path, b"evil", Last_Modified=format_datetime(NOW, usegmt=True), ETag='"e"')
    with pytest.raises(TrunklineError) as raised:
        put(sources, versioning)
    assert len(raised.value.message.splitlines()) == 1 and "canary" not in raised.value.message
    assert versioning.list_commits("default", "r") == []


def test_two_keys_for_one_path_do_not_overwrite(
    sources: SourcesService, versioning: VersioningService, web: WebServer
) -> None:
    listing(web, "in/a", "in/a/b")
    for path in ("/bucket/in/a", "/bucket/in/a/b"):
        web.serve(path, b"evil", Last_Modified=format_datetime(NOW, usegmt=True), ETag='"e"')
    with pytest.raises(TrunklineError, match="in/a"):
        put(sources, versioning)
    assert versioning.list_commits("default", "r") == []


def test_an_object_that_ends_early_is_no_file(
    sources: SourcesService, versioning: VersioningService, web: WebServer
) -> None:
    def short(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        for name, value in (
            ("content-length", "1000"),
            ("etag", '"e"'),
            ("last-modified", format_datetime(NOW, usegmt=True)),
        ):
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(b"x" * 10)
        handler.close_connection = True

    listing(web, "in/a", size=1000)
    web.answers["/bucket/in/a"] = short
    with pytest.raises((UnavailableError, InvalidInputError)):
        put(sources, versioning)
    assert versioning.list_commits("default", "r") == []


def test_the_size_of_an_object_is_what_comes(
    sources: SourcesService, versioning: VersioningService, web: WebServer
) -> None:
    listing(web, "in/a", size=999)
    web.serve("/bucket/in/a", b"four", Last_Modified=format_datetime(NOW, usegmt=True), ETag='"e"')
    put(sources, versioning)
    commit, root, _ = versioning.resolve("default", "r@master")
    assert contents(versioning, root) == {"/in/a": b"four"} and commit.size == 4
