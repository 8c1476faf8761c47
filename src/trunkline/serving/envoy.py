"""Envoy's configuration as plain data: which host goes to which cluster, and how hard it tries.

The shape is measured, not guessed (what was tried and lost requests is in docs/guides/serving.md): STATIC clusters with their
endpoints inline, because endpoints by file cost one inotify instance each; retries on resets, because a prediction is idempotent.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ROUTES = "routes"
STAT_PREFIX = "ingress"
_TYPE = "type.googleapis.com/envoy"
_MANAGER = f"{_TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = f"{_TYPE}.extensions.filters.http.router.v3.Router"
_LISTENER = f"{_TYPE}.config.listener.v3.Listener"
_CLUSTER = f"{_TYPE}.config.cluster.v3.Cluster"
_ROUTE_CONFIGURATION = f"{_TYPE}.config.route.v3.RouteConfiguration"
_PENDING_MAX = 4096
_NO_SERVICE = (
    "no inference service answers to this host; see `trunkline get inferenceservices` for those there are"
)


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The replicas of one revision."""

    name: str
    ports: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Route:
    """One service's host, and the cluster that its requests go to."""

    host: str
    cluster: str
    timeout_seconds: float
    headers: Mapping[str, str]
    """Of every answer that does not have them: what Envoy answers by itself should say of which revision it speaks."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    body_bytes_max: int


def bootstrap(folder: str, admin_socket: str) -> dict[str, Any]:
    """What Envoy starts with; all else it reads from the files that this names."""
    return {
        "node": {"id": "trunkline", "cluster": "local"},
        "admin": {"address": {"pipe": {"path": admin_socket, "mode": 0o600}}},
        "dynamic_resources": {
            "lds_config": {
                "resource_api_version": "V3",
                "path_config_source": {"path": f"{folder}/lds.json"},
            },
            "cds_config": {
                "resource_api_version": "V3",
                "path_config_source": {"path": f"{folder}/cds.json"},
            },
        },
    }


def listeners(folder: str, host: str, port: int) -> dict[str, Any]:
    """The one listener. ``enable_reuse_port`` is off, so that a port which is taken is an error."""
    manager = {
        "@type": _MANAGER,
        "stat_prefix": STAT_PREFIX,
        "rds": {
            "route_config_name": ROUTES,
            "config_source": {
                "resource_api_version": "V3",
                "path_config_source": {"path": f"{folder}/rds.json"},
            },
        },
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": _ROUTER}}],
        "preserve_external_request_id": True,
        "always_set_request_id_in_response": True,
        "server_header_transformation": "PASS_THROUGH",
        # Envoy's own answers in the shape of the protocol's errors.
        "local_reply_config": {"body_format": {"json_format": {"error": "%LOCAL_REPLY_BODY%"}}},
    }
    listener = {
        "@type": _LISTENER,
        "name": "http",
        "address": {"socket_address": {"address": host, "port_value": port}},
        "enable_reuse_port": False,
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }
    return _response([listener])


def clusters(found: Sequence[Cluster]) -> dict[str, Any]:
    return _response([_cluster(c) for c in sorted(found, key=lambda c: c.name)])


def routes(found: Sequence[Route], bounds: Bounds) -> dict[str, Any]:
    hosts = [_virtual_host(r, bounds) for r in sorted(found, key=lambda r: r.host)]
    nobody = {
        "name": "nobody",
        "domains": ["*"],
        "routes": [
            {
                "match": {"prefix": "/"},
                "direct_response": {"status": 404, "body": {"inline_string": _NO_SERVICE}},
            }
        ],
    }
    return _response([{"@type": _ROUTE_CONFIGURATION, "name": ROUTES, "virtual_hosts": [*hosts, nobody]}])


def version(document: Mapping[str, Any]) -> str:
    return str(document["version_info"])


def ports_in(document: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Cluster name -> ports, of a document that ``clusters`` made."""
    found = {}
    for cluster in document["resources"]:
        endpoints = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
        found[cluster["name"]] = tuple(
            e["endpoint"]["address"]["socket_address"]["port_value"] for e in endpoints
        )
    return found


def clusters_in(document: Mapping[str, Any]) -> set[str]:
    """Names of the clusters that a document made by ``routes`` sends requests to."""
    hosts = document["resources"][0]["virtual_hosts"]
    return {r["route"]["cluster"] for h in hosts for r in h["routes"] if "route" in r}


def _response(resources: list[dict[str, Any]]) -> dict[str, Any]:
    text = json.dumps(resources, sort_keys=True)
    return {"version_info": hashlib.sha256(text.encode()).hexdigest()[:16], "resources": resources}


def _cluster(cluster: Cluster) -> dict[str, Any]:
    endpoints = [
        {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}
        for port in cluster.ports
    ]
    limits = dict.fromkeys(
        ("max_connections", "max_pending_requests", "max_requests", "max_retries"), _PENDING_MAX
    )
    found: dict[str, Any] = {
        "@type": _CLUSTER,
        "name": cluster.name,
        "type": "STATIC",
        "lb_policy": "ROUND_ROBIN",
        "connect_timeout": "1s",
        "circuit_breakers": {"thresholds": [limits]},
        "load_assignment": {"cluster_name": cluster.name, "endpoints": [{"lb_endpoints": endpoints}]},
    }
    if len(cluster.ports) > 1:
        # With one replica there is nobody else to turn to, so ejecting it could only hurt.
        found["outlier_detection"] = {
            "consecutive_gateway_failure": 1, "enforcing_consecutive_gateway_failure": 100,
            "split_external_local_origin_errors": True, "consecutive_local_origin_failure": 1, "consecutive_5xx": 0,
            "base_ejection_time": "2s", "max_ejection_percent": 100,
        }  # fmt: skip
    return found


def _virtual_host(route: Route, bounds: Bounds) -> dict[str, Any]:
    retry: dict[str, Any] = {
        "retry_on": "connect-failure,refused-stream,reset",
        # The first retry comes soon, for it goes to another replica, where there is one. If none is left, requests are held
        # rather than failed, for the seconds (about eight in all) in which one is started again.
        "num_retries": 13,
        "retry_back_off": {"base_interval": "0.05s", "max_interval": "2s"},
        "host_selection_retry_max_attempts": 5,
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {
                    "@type": f"{_TYPE}.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
                },
            }
        ],
    }
    timeout = f"{route.timeout_seconds:g}s"
    return {
        "name": route.host,
        "domains": [route.host, f"{route.host}:*"],
        "request_body_buffer_limit": bounds.body_bytes_max,
        "response_headers_to_add": [
            # A percent sign would begin one of Envoy's own variables.
            {"header": {"key": name, "value": value.replace("%", "%%")}, "append_action": "ADD_IF_ABSENT"}
            for name, value in sorted(route.headers.items())
        ],
        "routes": [
            {
                "match": {"prefix": "/"},
                "route": {
                    "cluster": route.cluster, "timeout": timeout, "idle_timeout": timeout, "retry_policy": retry
                },
            }
        ],
    }  # fmt: skip
