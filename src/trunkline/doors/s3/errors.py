"""Errors as S3 says them: a code and a status, from our own classes and kinds by one table."""

from __future__ import annotations

from trunkline import errors
from trunkline.errors import TrunklineError


class S3Error(Exception):
    """An error of the protocol itself; ``fields`` are further elements of its XML."""

    def __init__(self, code: str, message: str, status: int = 400, **fields: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status
        self.fields = fields


CLASSES: dict[type[TrunklineError], tuple[str, int]] = {
    errors.InvalidInputError: ("InvalidRequest", 400),
    errors.UnauthenticatedError: ("AccessDenied", 403),
    errors.PermissionDeniedError: ("AccessDenied", 403),
    errors.NotFoundError: ("NoSuchBucket", 404),
    errors.AlreadyExistsError: ("BucketAlreadyOwnedByYou", 409),
    errors.ConflictError: ("OperationAborted", 409),
    errors.StateError: ("AccessDenied", 403),
    errors.LimitError: ("SlowDown", 503),
    errors.UnavailableError: ("ServiceUnavailable", 503),
    errors.CorruptionError: ("InternalError", 500),
    errors.InternalError: ("InternalError", 500),
}
KINDS: dict[str, tuple[str, int]] = {
    "bad_path": ("InvalidArgument", 400),
    "bad_name": ("InvalidBucketName", 400),
    "client_gone": ("IncompleteBody", 400),
    "client_stalled": ("RequestTimeout", 400),
    "disk_full": ("InsufficientStorage", 507),
    "file_too_large": ("EntityTooLarge", 400),
    "no_file": ("NoSuchKey", 404),
    "no_upload": ("NoSuchUpload", 404),
    "bad_part": ("InvalidPart", 400),
    "bad_part_order": ("InvalidPartOrder", 400),
    "bad_part_number": ("InvalidArgument", 400),
    "path_collision": ("InvalidRequest", 400),
    "precondition_failed": ("PreconditionFailed", 412),
}
"""Kinds that are told apart from the rest of their class."""


def translate(error: TrunklineError) -> S3Error:
    """One of our errors in S3's words; the message stays."""
    found = KINDS.get(error.kind) or next(CLASSES[kind] for kind in type(error).__mro__ if kind in CLASSES)
    code, status = found
    return S3Error(code, error.message, status)


def not_implemented(what: str) -> S3Error:
    return S3Error("NotImplemented", f"{what} is not there: this S3 has buckets and objects only", 501)


def no_such_key(key: str) -> S3Error:
    return S3Error("NoSuchKey", f"there is no object {key!r}", 404, Key=key)
