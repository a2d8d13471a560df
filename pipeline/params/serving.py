"""Sections that the platform engineer changes: Triton, the gateway, jobs and the prediction log."""

import ipaddress
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from pipeline.params.section import Count, Port, Positive, Section


def _network(text: str) -> str:
    """Return the network in its usual notation; a single address is a network of one."""
    return str(ipaddress.ip_network(text))


class Serve(Section):
    """Addresses of Triton; keep it on loopback, because it has no authentication."""

    host: str
    http_port: Port
    grpc_port: Port
    metrics_port: Port
    ready_timeout_s: Positive


class Http(Section):
    """The limits of every HTTP service of ours, and the names under which they may be addressed."""

    allowed_hosts: Annotated[str, Field(pattern=r"^[a-z0-9*.-]+( [a-z0-9*.-]+)*$")]
    max_head_bytes: Count
    max_headers: Count
    head_within_s: Positive
    body_within_s: Positive
    peer_share: Annotated[float, Field(gt=0, le=1)]
    held_body_bytes: Count


class Gateway(Section):
    """The HTTP API in front of Triton: its address, limits, deadline and cache."""

    host: str
    port: Port
    deadline_ms: Count
    max_waiting_texts: Count
    max_texts: Count
    max_body_bytes: Count
    max_connections: Count
    cache_bytes: Annotated[int, Field(ge=0)]
    cache_ttl_s: Positive
    in_flight: Count
    shadow_waiting_texts: Count
    rate_limit_per_s: Annotated[float, Field(ge=0)]
    trusted_proxies: tuple[Annotated[str, AfterValidator(_network)], ...]
    routing_poll_ms: Count


class Jobs(Section):
    """Asynchronous jobs and their callbacks."""

    workers: Annotated[int, Field(ge=0)]
    max_texts: Count
    max_waiting: Count
    max_stored_bytes: Count
    max_attempts: Count
    lease_s: Positive
    poll_ms: Count
    retention_s: Positive
    callback_attempts: Count
    callback_timeout_s: Positive
    callback_private: Literal["refuse", "allow"]


class Log(Section):
    """The prediction log: its location, its policy for texts, and the size and interval of its segments."""

    url: str
    text: Literal["keep", "hash"]
    segment_rows: Count
    flush_s: Positive
    buffer_rows: Count
    buffer_bytes: Count
