"""What a handler learns of its model and its request."""

from __future__ import annotations

from typing import Any


class Context:
    """Handed to ``initialize`` and ``handle``."""

    def __init__(
        self,
        model_name: str,
        model_dir: str,
        manifest: dict[str, Any],
        batch_size: int,
        gpu: int | None,
        mms_version: str,
        limit_max_image_pixels: bool = True,
        metrics: Any = None,
        model_yaml_config: dict[str, Any] | None = None,
    ) -> None:
        self.model_name = model_name
        self.manifest = manifest
        self._system_properties = {
            "model_dir": model_dir,
            "gpu_id": gpu,
            "batch_size": batch_size,
            "server_name": "MMS",
            "server_version": mms_version,
            "limit_max_image_pixels": limit_max_image_pixels,
        }
        self.request_ids: dict[int, str] = {}
        self.request_processor = [RequestProcessor()]
        self.metrics = metrics
        self.model_yaml_config = model_yaml_config or {}
        self.stopping = False

    @property
    def system_properties(self) -> dict[str, Any]:
        return self._system_properties

    def get_request_id(self, idx: int = 0) -> str | None:
        return self.request_ids.get(idx)

    def get_request_header(self, idx: int, key: str) -> str | None:
        return self._processor(idx).get_request_property(key)

    def get_all_request_header(self, idx: int) -> dict[str, str]:
        return self._processor(idx).get_request_properties()

    def set_response_content_type(self, idx: int, value: str) -> None:
        self.set_response_header(idx, "content-type", value)

    def get_response_content_type(self, idx: int) -> str | None:
        return self._processor(idx).response_headers.get("content-type")

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        self._processor(idx).add_response_property(key, value)

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        self._processor(idx).report_status(code, phrase)

    def set_all_response_status(self, code: int = 200, phrase: str = "") -> None:
        for processor in self.request_processor:
            processor.report_status(code, phrase)

    def _processor(self, idx: int) -> RequestProcessor:
        return self.request_processor[idx if idx < len(self.request_processor) else 0]


class RequestProcessor:
    """Headers and status of one request of a batch."""

    def __init__(self, request_header: dict[str, str] | None = None) -> None:
        self._request_header = request_header or {}
        self.response_headers: dict[str, str] = {}
        self.status = (200, "")

    def get_request_property(self, key: str) -> str | None:
        return self._request_header.get(key)

    def get_request_properties(self) -> dict[str, str]:
        return self._request_header

    def add_response_property(self, key: str, value: str) -> None:
        self.response_headers[key] = value

    def get_response_header(self) -> dict[str, str]:
        return self.response_headers

    def report_status(self, code: int, reason_phrase: str = "") -> None:
        self.status = (code, reason_phrase)
