"""What of a line may be shown."""

from __future__ import annotations

import pytest

from trunkline.workers.logs import hiding


@pytest.mark.parametrize(
    ("secrets", "line", "shown"),
    [
        ([], "as it is", "as it is"),
        (["hunter2"], "password=hunter2, again hunter2.", "password=***, again ***."),
        (["hunter2", "hunter2-long"], "hunter2-long", "***"),
        (["-----BEGIN\nAAAA\n-----END\n"], "AAAA", "***"),
        (["a.c+"], "abcc a.c+", "abcc ***"),
        (["1", "", "yes"], "1 yes", "1 yes"),
    ],
)
def test_secrets_are_taken_out(secrets: list[str], line: str, shown: str) -> None:
    assert hiding(secrets)(line) == shown
