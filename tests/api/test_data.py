from __future__ import annotations

import io
import tarfile
from urllib.parse import urlencode

import pytest
from starlette.testclient import TestClient

from trunkline.api.ranges import parse_range


@pytest.fixture
def repo(owner: TestClient) -> str:
    assert owner.post("/v1/projects/default/repos", json={"name": "images"}).status_code == 201
    return "/v1/projects/default"


def tar_of(*entries: tuple[tarfile.TarInfo, bytes], **options) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", **options) as archive:
        for info, content in entries:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return target.getvalue()


def plain(name: str, **fields) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def test_a_file_goes_in_and_comes_out(owner: TestClient, repo: str) -> None:
    put = owner.put(f"{repo}/files?at=images@master:/a/b.bin", content=b"0123456789")
    assert put.json()["status"] == "finished"
    got = owner.get(f"{repo}/files?at=images@master:/a/b.bin")
    assert (got.content, got.headers["content-length"]) == (b"0123456789", "10")
    part = owner.get(f"{repo}/files?at=images@master:/a/b.bin", headers={"range": "bytes=2-4"})
    assert (part.status_code, part.content, part.headers["content-range"]) == (206, b"234", "bytes 2-4/10")
    behind = owner.get(f"{repo}/files?at=images@master:/a/b.bin", headers={"range": "bytes=10-"})
    assert behind.status_code == 416
    owner.put(f"{repo}/files?at=images@master:/a/b.bin&append=true", content=b"ab")
    assert owner.get(f"{repo}/files?at=images@master:/a/b.bin").content == b"0123456789ab"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None), ("bytes=0-0", (0, 1)), ("bytes=5-", (5, 5)), ("bytes=-3", (7, 3)), ("bytes=-30", (0, 10)),
        ("bytes=2-100", (2, 8)), ("bytes=10-12", (10, 0)), ("bytes=4-2", None), ("bytes=1-2,4-5", None),
        ("items=1-2", None), ("bytes=-", None),
    ],
)  # fmt: skip
def test_ranges(header: str | None, expected: tuple[int, int] | None) -> None:
    assert parse_range(header, 10) == expected


def test_an_archive_is_one_commit_and_keeps_times_and_modes(owner: TestClient, repo: str) -> None:
    body = tar_of(
        (plain("x/run.sh", mode=0o755, mtime=1_700_000_000), b"#!"), (plain("./y.txt", mtime=5), b"y")
    )
    commit = owner.put(f"{repo}/archive?at=images@master:/data", content=body).json()
    files = owner.get(f"{repo}/tree?at=images@master&walk=true").json()["items"]
    found = {f["path"]: (f["modified_at"], f["executable"]) for f in files if not f["is_dir"]}
    assert found == {"/data/x/run.sh": (1_700_000_000, True), "/data/y.txt": (5, False)}
    assert [c["id"] for c in owner.get(f"{repo}/repos/images/commits").json()["items"]] == [commit["id"]]
    got = owner.get(f"{repo}/archive?at=images@master:/data")
    with tarfile.open(fileobj=io.BytesIO(got.content)) as archive:
        members = {m.name: (m.mtime, m.mode) for m in archive.getmembers()}
    assert members == {"data/x/run.sh": (1_700_000_000, 0o755), "data/y.txt": (5, 0o644)}


@pytest.mark.parametrize(
    "info",
    [
        plain("../up.txt"), plain("a/../../up.txt"), plain("a//b"), plain("a\nb"), plain(""),
        plain("l", type=tarfile.SYMTYPE, linkname="/etc/passwd"), plain("h", type=tarfile.LNKTYPE, linkname="x"),
        plain("d", type=tarfile.CHRTYPE), plain("f", type=tarfile.FIFOTYPE),
    ],
)  # fmt: skip
def test_hostile_archives_leave_nothing(owner: TestClient, repo: str, info: tarfile.TarInfo) -> None:
    body = tar_of((plain("good.txt"), b"good"), (info, b""))
    answer = owner.put(f"{repo}/archive?at=images@master:/", content=body)
    assert (answer.status_code, answer.json()["error"]["kind"]) in ((422, "bad_archive"), (422, "bad_path"))
    assert owner.get(f"{repo}/repos/images/commits").json()["items"] == []


def test_absolute_names_stay_inside(owner: TestClient, repo: str) -> None:
    owner.put(f"{repo}/archive?at=images@master:/data", content=tar_of((plain("/etc/x"), b"1")))
    assert owner.get(f"{repo}/files?at=images@master:/data/etc/x").content == b"1"


@pytest.mark.parametrize("body", [b"not a tar at all" * 100, tar_of((plain("a"), b"x" * 5000))[:3000]])
def test_damaged_archives_are_refused(owner: TestClient, repo: str, body: bytes) -> None:
    answer = owner.put(f"{repo}/archive?at=images@master:/", content=body)
    assert (answer.status_code, answer.json()["error"]["kind"]) == (422, "bad_archive")
    assert owner.get(f"{repo}/repos/images/commits").json()["items"] == []


def test_a_huge_extended_header_is_refused_unread(owner: TestClient, repo: str) -> None:
    info = plain("././@LongLink", type=tarfile.GNUTYPE_LONGNAME)
    info.size = 2**40
    answer = owner.put(
        f"{repo}/archive?at=images@master:/", content=info.tobuf(tarfile.GNU_FORMAT) + b"x" * 2048
    )
    assert answer.json()["error"]["kind"] == "bad_archive"


def test_filesets_hold_trees_without_a_commit(owner: TestClient) -> None:
    made = owner.post("/v1/filesets", content=tar_of((plain("a/1"), b"1"), (plain("b/2"), b"2"))).json()
    assert (made["file_count"], made["size"]) == (2, 2)
    again = owner.post("/v1/filesets", content=tar_of((plain("b/2"), b"2"), (plain("a/1"), b"1"))).json()
    assert again["root"] == made["root"]
    more = owner.post(f"/v1/filesets?base={made['root']}", content=tar_of((plain("c"), b"3"))).json()
    assert more["file_count"] == 3
    got = owner.get(f"/v1/filesets/{made['root']}/archive", params={"path": ["/b"]})
    with tarfile.open(fileobj=io.BytesIO(got.content)) as archive:
        assert archive.getnames() == ["b/2"]
    assert owner.get(f"/v1/filesets/{'0' * 64}/archive").status_code in (404, 500)


def test_a_directory_is_no_file(owner: TestClient, repo: str) -> None:
    owner.put(f"{repo}/files?at=images@master:/a/b", content=b"1")
    assert owner.get(f"{repo}/files?at=images@master:/a").json()["error"]["kind"] == "is_directory"
    assert owner.delete(f"{repo}/files?at=images@master:/nope").status_code == 404
    assert owner.delete(f"{repo}/files?at=images@master:/a").status_code == 200


def test_open_commits_and_long_polls(owner: TestClient, repo: str) -> None:
    opened = owner.post(
        f"{repo}/repos/images/commits", json={"branch": "master", "description": "two"}
    ).json()
    assert opened["status"] == "open"
    waited = owner.get(f"/v1/commits/{opened['id']}", params={"wait_seconds": 0.2}).json()
    assert waited["commits"][0]["status"] == "open"
    owner.put(f"{repo}/files?at=images@master:/a", content=b"1")
    owner.put(f"{repo}/files?at=images@master:/b", content=b"2")
    done = owner.post(f"{repo}/commits/finish", json={"at": "images@master"}).json()
    assert (done["id"], done["status"], done["file_count"]) == (opened["id"], "finished", 2)
    assert owner.get(f"/v1/commits/{opened['id']}", params={"wait_seconds": 30}).json()["id"] == opened["id"]
    assert owner.get(f"/v1/inspect/{opened['id']}").json()["commits"][0]["id"] == opened["id"]
    assert owner.get(f"/v1/inspect/{'f' * 32}").json()["error"]["kind"] == "unknown_id"


def test_branches_copies_and_differences(owner: TestClient, repo: str) -> None:
    owner.put(f"{repo}/files?at=images@master:/a", content=b"1")
    made = owner.post(f"{repo}/repos/images/branches", json={"name": "side", "head": "master"}).json()
    assert made["head"] is not None
    owner.post(f"{repo}/files/copy", json={"source": "images@master:/a", "to": "images@side:/copy"})
    gone = owner.post(f"{repo}/files/copy", json={"source": "images@side:/nope", "to": "images@side:/x"})
    assert gone.status_code == 404
    assert gone.json()["error"]["message"].startswith("there is no /nope to copy in images@side (commit ")
    diff = owner.get(f"{repo}/diff", params={"at": "images@side"}).json()["items"]
    assert [(d["op"], d["new"]["path"]) for d in diff if not d["new"]["is_dir"]] == [("added", "/copy")]
    first = owner.get(f"{repo}/diff", params={"at": "images@master"}).json()["items"]
    assert [d["new"]["path"] for d in first if not d["new"]["is_dir"]] == ["/a"]
    assert owner.delete(f"{repo}/repos/images/branches/side").status_code == 204


def test_the_reference_lists_every_route(owner: TestClient) -> None:
    page = owner.get("/docs")
    paths = owner.get("/openapi.json").json()["paths"]
    assert page.status_code == 200 and all(path in page.text for path in paths)
    assert "http://" not in page.text.replace("http://127", "") and "https://" not in page.text


def with_query(url: str, **query: object) -> str:
    more = urlencode({name: value for name, value in query.items() if value is not None})
    return f"{url}{'&' if '?' in url else '?'}{more}"


def pages(owner: TestClient, url: str, limit: int) -> list[dict]:
    """All items of a list, by way of its cursors."""
    found, cursor = [], None
    while True:
        page = owner.get(with_query(url, limit=limit, cursor=cursor)).json()
        assert 0 < len(page["items"]) <= limit
        found += page["items"]
        cursor = page["next"]
        if cursor is None:
            return found


def test_long_lists_come_in_pages(owner: TestClient, repo: str) -> None:
    for number in range(5):
        body = tar_of(*((plain(f"{number}/{name}.txt"), b"x") for name in "abc"))
        owner.put(f"{repo}/archive?at=images@master:/", content=body)
    commits = pages(owner, f"{repo}/repos/images/commits", 2)
    assert len(commits) == 5
    assert pages(owner, f"{repo}/repos/images/commits?branch=master", 2) == commits
    assert [one["id"] for one in pages(owner, "/v1/commits", 2)] == [one["id"] for one in commits]
    assert [one["path"] for one in pages(owner, f"{repo}/tree?at=images@master", 2)] == [
        f"/{number}/" for number in range(5)
    ]
    assert len(pages(owner, f"{repo}/tree?at=images@master&walk=true", 4)) == 15
    assert len(pages(owner, f"{repo}/tree?at=images@master&glob=/**.txt", 4)) == 15
    assert len(pages(owner, f"{repo}/diff?at=images@master&old=images@master.1", 4)) == 12
    assert len(pages(owner, f"/v1/filesets/{commits[0]['root']}/tree", 4)) == 15


def test_a_listing_goes_on_in_the_tree_it_began_with(owner: TestClient, repo: str) -> None:
    owner.put(f"{repo}/archive?at=images@master:/", content=tar_of(*((plain(name), b"x") for name in "abcd")))
    first = owner.get(f"{repo}/tree?at=images@master&limit=2").json()
    owner.delete(f"{repo}/files?at=images@master:/c")
    rest = owner.get(with_query(f"{repo}/tree?at=images@master", limit=2, cursor=first["next"])).json()
    assert [one["path"] for one in first["items"] + rest["items"]] == ["/a", "/b", "/c", "/d"]
    assert rest["next"] is None


@pytest.mark.parametrize("cursor", ["", "x", "0" * 64, "zz" * 32 + "/a", "/" * 64 + "/a"])
def test_a_cursor_that_no_page_had_is_refused(owner: TestClient, repo: str, cursor: str) -> None:
    owner.put(f"{repo}/files?at=images@master:/a", content=b"x")
    answer = owner.get(with_query(f"{repo}/tree?at=images@master", cursor=cursor))
    assert answer.status_code == 422
    assert answer.json()["error"]["kind"] in ("bad_cursor", "bad_hash")


def test_a_fileset_that_nobody_stored_is_not_found(owner: TestClient) -> None:
    for view in ("tree", "archive"):
        answer = owner.get(f"/v1/filesets/{'ab' * 32}/{view}")
        assert (answer.status_code, answer.json()["error"]["kind"]) == (404, "no_tree")
