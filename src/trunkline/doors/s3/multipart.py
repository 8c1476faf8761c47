"""Objects in parts: the service's uploads under S3's names."""

from __future__ import annotations

from starlette.responses import Response

from trunkline.api.ranges import parse_range
from trunkline.doors.s3.answers import empty, xml
from trunkline.doors.s3.call import Call
from trunkline.doors.s3.conditions import check_write
from trunkline.doors.s3.errors import S3Error, not_implemented
from trunkline.doors.s3.listing import OWNER, encoder
from trunkline.doors.s3.look import MTIME, etag, hash_of_etag, mtime_of, path_of, see, xml_time
from trunkline.doors.s3.writing import source_of
from trunkline.doors.s3.xmltext import parse, tag
from trunkline.errors import NotFoundError
from trunkline.versioning.model import Upload, UploadPart
from trunkline.versioning.service.uploads import PARTS_MAX

PAGE_MAX = 1000
INITIATOR = (tag("Initiator", OWNER), tag("Owner", OWNER), tag("StorageClass", "STANDARD"))


def create_upload(call: Call) -> Response:
    """Begin."""
    _ = call.document()
    see(call.services, call.bucket)
    mtime = mtime_of(call.headers, 0) if MTIME in call.headers else None
    upload = call.services.versioning.start_upload(
        call.bucket.project,
        call.bucket.address,
        path_of(call.key),
        modified_at=mtime,
        as_owner=call.bucket.owner,
    )
    return xml(
        "InitiateMultipartUploadResult",
        tag("Bucket", call.bucket_name),
        tag("Key", call.key),
        tag("UploadId", upload.id),
    )


def upload_part(call: Call) -> Response:
    """A part, as it arrives."""
    upload = _upload(call)
    with call.room():
        part = call.services.versioning.put_part(upload.id, _number(call), call.parts())
    given = {name: value for name, value in call.verified.items() if name.startswith("x-amz-")}
    return empty(headers={"etag": _etag(part), **given})


def upload_part_copy(call: Call) -> Response:
    """A part from an object that is here already."""
    _ = call.document()
    upload, source = _upload(call), source_of(call)
    header = call.headers.get("x-amz-copy-source-range")
    span = parse_range(header, source.info.size)
    if source.info.is_dir or (header is not None and (span is None or span[1] == 0)):
        raise S3Error(
            "InvalidArgument", "x-amz-copy-source-range must read bytes=first-last, inside the source"
        )
    offset, length = span or (0, None)
    part = call.services.versioning.copy_part(
        upload.id, _number(call), source.seen.tree, source.info.path, offset=offset, length=length
    )
    return xml("CopyPartResult", tag("ETag", _etag(part)), tag("LastModified", xml_time(part.created_at)))


def list_parts(call: Call) -> Response:
    """What has arrived."""
    upload = _upload(call)
    limit = call.integer("max-parts", PAGE_MAX, PAGE_MAX)
    after = call.integer("part-number-marker", 0, PARTS_MAX)
    parts = call.services.versioning.list_parts(upload.id, after=after, limit=limit + 1)
    shown = parts[:limit]
    return xml(
        "ListPartsResult",
        tag("Bucket", call.bucket_name),
        tag("Key", encoder(call)(call.key)),
        tag("UploadId", upload.id),
        *INITIATOR,
        tag("PartNumberMarker", str(after)),
        *([tag("NextPartNumberMarker", str(shown[-1].number))] if shown else []),
        tag("MaxParts", str(limit)),
        tag("IsTruncated", "true" if len(parts) > limit else "false"),
        *(
            tag(
                "Part",
                tag("PartNumber", str(part.number)),
                tag("LastModified", xml_time(part.created_at)),
                tag("ETag", _etag(part)),
                tag("Size", str(part.size)),
            )
            for part in shown
        ),
    )


def list_uploads(call: Call) -> Response:
    """What has begun and not ended."""
    if call.query.get("delimiter"):
        raise not_implemented("listing uploads with a delimiter")
    seen = see(call.services, call.bucket)
    encode = encoder(call)
    limit = call.integer("max-uploads", PAGE_MAX, PAGE_MAX)
    prefix, marker = call.query.get("prefix", ""), call.query.get("key-marker", "")
    after_id = call.query.get("upload-id-marker", "") or "g"  # behind all IDs: the key itself is not repeated
    found = call.services.versioning.list_uploads(
        seen.bucket.address, prefix="/" + prefix, after=("/" + marker, after_id) if marker else ("", ""), limit=limit + 1
    )  # fmt: skip
    shown = found[:limit]
    is_truncated = len(found) > limit
    position = [] if not is_truncated or not shown else [
        tag("NextKeyMarker", encode(shown[-1].path[1:])), tag("NextUploadIdMarker", shown[-1].id)
    ]  # fmt: skip
    return xml(
        "ListMultipartUploadsResult",
        tag("Bucket", call.bucket_name),
        tag("KeyMarker", encode(marker)),
        tag("UploadIdMarker", call.query.get("upload-id-marker", "")),
        *position,
        tag("Prefix", encode(prefix)),
        *([tag("EncodingType", "url")] if "encoding-type" in call.query else []),
        tag("MaxUploads", str(limit)),
        tag("IsTruncated", "true" if is_truncated else "false"),
        *(
            tag(
                "Upload",
                tag("Key", encode(one.path[1:])),
                tag("UploadId", one.id),
                *INITIATOR,
                tag("Initiated", xml_time(one.created_at)),
            )
            for one in shown
        ),
    )


def complete_upload(call: Call) -> Response:
    """Join the parts that the body lists, and write the file."""
    versioning = call.services.versioning
    asked = parse(call.document(), "CompleteMultipartUpload")
    chosen = [
        (_part_number(part.get("PartNumber")), hash_of_etag(part.get("ETag"))) for part in asked.all("Part")
    ]
    upload_id = _of_bucket(call, versioning.find_upload(call.query["uploadId"])).id
    commit, info = versioning.complete_upload(
        upload_id, chosen, check=check_write(call, call.key), as_owner=call.bucket.owner
    )
    return xml(
        "CompleteMultipartUploadResult",
        tag("Location", f"/{call.bucket_name}/{call.key}"),
        tag("Bucket", call.bucket_name),
        tag("Key", call.key),
        tag("ETag", etag(info)),
        headers={"x-amz-version-id": commit.id},
    )


def abort_upload(call: Call) -> Response:
    """Forget the parts."""
    call.services.versioning.abort_upload(_upload(call).id)
    return empty(204)


def _upload(call: Call) -> Upload:
    return _of_bucket(call, call.services.versioning.inspect_upload(call.query["uploadId"]))


def _of_bucket(call: Call, upload: Upload) -> Upload:
    if upload.address != call.bucket.address or upload.path != "/" + call.key:
        raise NotFoundError(f"upload {upload.id} is not of this bucket and key", kind="no_upload")
    return upload


def _number(call: Call) -> int:
    return _part_number(call.query.get("partNumber", ""))


def _part_number(text: str) -> int:
    text = text.strip()
    if not text.isascii() or not text.isdigit() or len(text) > 6:
        raise S3Error(
            "InvalidArgument", f"parts are numbered from 1 to {PARTS_MAX}", ArgumentName="partNumber"
        )
    return int(text)


def _etag(part: UploadPart) -> str:
    return f'"{part.hash}-1"'
