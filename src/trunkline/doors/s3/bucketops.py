"""Operations on buckets."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from starlette.responses import Response

from trunkline.core.ids import DEFAULT_BRANCH
from trunkline.doors.s3.answers import empty, xml
from trunkline.doors.s3.buckets import bucket_name
from trunkline.doors.s3.call import Call
from trunkline.doors.s3.errors import S3Error
from trunkline.doors.s3.listing import OWNER
from trunkline.doors.s3.look import is_fresh, see, xml_time
from trunkline.doors.s3.xmltext import parse, tag
from trunkline.errors import AlreadyExistsError

REGION = "us-east-1"


def list_buckets(call: Call) -> Response:
    """Every branch of every repo; of one that is new the ``master`` that it will have."""
    if call.job_buckets is not None:
        now = call.services.clock.now()
        return _buckets(call, [(name, now) for name in call.job_buckets])
    found = []
    for repo in call.services.versioning.list_repos():
        is_new = not repo.branches and is_fresh(call.services, repo.project, repo.name)
        for branch in (DEFAULT_BRANCH,) if is_new else repo.branches:
            found.append((bucket_name(repo.project, repo.name, branch), repo.created_at))
    return _buckets(call, found)


def _buckets(call: Call, found: Iterable[tuple[str, float]]) -> Response:
    prefix = call.query.get("prefix", "")
    buckets = [
        tag("Bucket", tag("Name", name), tag("CreationDate", xml_time(at)))
        for name, at in sorted(found)
        if name.startswith(prefix)
    ]
    return xml("ListAllMyBucketsResult", tag("Owner", OWNER), tag("Buckets", *buckets))


def create_bucket(call: Call) -> Response:
    """A branch, and its repo if that does not exist yet."""
    _ = call.document()  # a region, if anything; there is only one here
    bucket = call.bucket
    address, versioning = bucket.branch_address, call.services.versioning
    with contextlib.suppress(AlreadyExistsError):
        versioning.create_repo(bucket.project, bucket.repo)
    versioning.create_branch(bucket.project, address)
    return empty(headers={"location": f"/{call.bucket_name}"})


def head_bucket(call: Call) -> Response:
    """Whether it is there."""
    see(call.services, call.bucket)
    return empty(headers={"x-amz-bucket-region": REGION})


def delete_bucket(call: Call) -> Response:
    """Only if nothing is in it. Its commits stay, and the repo, unless that was never used."""
    bucket = call.bucket
    address, versioning = bucket.branch_address, call.services.versioning
    seen = see(call.services, bucket)
    if seen.root is not None and next(versioning.scan(seen.root), None) is not None:
        raise S3Error(
            "BucketNotEmpty", f"bucket {call.bucket_name!r} is not empty: delete its objects first", 409
        )
    if bucket.branch != DEFAULT_BRANCH or not is_fresh(call.services, bucket.project, bucket.repo):
        versioning.delete_branch(bucket.project, address)
    if is_fresh(call.services, bucket.project, bucket.repo):
        versioning.delete_repo(bucket.project, bucket.repo)
    return empty(204)


def get_location(call: Call) -> Response:
    """The region: the first one, which has no name."""
    see(call.services, call.bucket)
    return xml("LocationConstraint")


def get_versioning(call: Call) -> Response:
    """Always on: every commit is kept, and its ID is the version of all that is in it."""
    see(call.services, call.bucket)
    return xml("VersioningConfiguration", tag("Status", "Enabled"))


def put_versioning(call: Call) -> Response:
    """It can be asked for, not ended."""
    see(call.services, call.bucket)
    if parse(call.document(), "VersioningConfiguration").get("Status") != "Enabled":
        raise S3Error(
            "IllegalVersioningConfigurationException", "versioning is always on: every commit is kept"
        )
    return empty()
