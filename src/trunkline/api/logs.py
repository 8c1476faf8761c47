"""How the server's log looks: one line per event, with the request's ID where there is one."""

from __future__ import annotations

import json
import logging

from trunkline.api.errors import request_id


class TextFormatter(logging.Formatter):
    """``TIME LEVEL NAME [request] message``."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s%(request)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        found = request_id.get()
        record.request = f" [{found}]" if found else ""
        return super().format(record)


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "ts": round(record.created, 3), "level": record.levelname, "logger": record.name,
            "message": record.getMessage(),
        }  # fmt: skip
        if found := request_id.get():
            line["request_id"] = found
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
