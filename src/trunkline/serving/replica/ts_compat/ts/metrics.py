"""The metrics object of a handler's context. Values are dropped: the gateway counts requests and times, and a handler's own
metrics have no reader here yet; what matters is that the calls work."""

from __future__ import annotations

from typing import Any


class Metric:
    def add_or_update(self, value: float, dimension_values: Any = None, request_id: str = "") -> None:
        pass

    def update(self, value: float, request_id: str = "", dimensions: Any = None) -> None:
        pass


class Metrics:
    """TorchServe's ``MetricsCacheYamlImpl`` as far as handlers call it."""

    def __init__(self, model_name: str) -> None:
        self.model_name = model_name
        self.request_ids: dict[int, str] = {}

    def add_metric(self, *_: Any, **__: Any) -> Metric:
        return Metric()

    add_metric_to_cache = get_metric = add_metric

    def add_counter(self, *_: Any, **__: Any) -> None:
        pass

    add_time = add_size = add_percent = add_error = add_counter
