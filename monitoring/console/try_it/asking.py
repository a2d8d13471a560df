"""Asks the gateway in a person's name, with the person's token, and explains its refusals."""

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote, urlencode

import orjson
from starlette.requests import Request

from pipeline.params import Params
from serving.gateway_client import Reply, http_sender
from serving.processes.addresses import base_url, is_loopback, reach_host

FEEDBACK = "/v1/feedback"
FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip", "via")  # a proxy adds one of these
START = "make serve"
HOW_TO_ADD = ".venv/bin/evergreen token add NAME --scope predict --scope label"


class ExplainedRefusal(NamedTuple):
    """Why there is no answer, what to do, and the command that does it, if any."""

    what: str
    do: str
    command: str = ""
    needs_token: bool = False


def caller_headers(request: Request) -> dict[str, str]:
    """Return the headers by which the gateway knows whose request it is.

    The gateway serves a local user without a token. Nobody becomes that by coming through this page from another machine or
    through a proxy: there the gateway sees a forwarded request.
    """
    peer = request.client.host if request.client else ""
    headers = {"connection": "close"}
    if not is_loopback(peer) or any(name in request.headers for name in FORWARDED):
        headers["x-forwarded-for"] = peer or "unknown"
    authorization = request.headers.get("authorization")
    return headers | ({"authorization": authorization} if authorization else {})


def gateway_url(params: Params) -> str:
    """Return the address of the gateway as this machine reaches it."""
    return base_url(reach_host("gateway", params.gateway.host), params.gateway.port)


def ask(url: str, path: str, body: Mapping[str, object], headers: Mapping[str, str]) -> Reply:
    """Return the gateway's reply to a POST; status 0 when it does not answer."""
    return http_sender(url, headers)("POST", path, orjson.dumps(body))


def give_label(url: str, id: str, label: str, headers: Mapping[str, str]) -> Reply:
    """Send the right label of a prediction as feedback."""
    return ask(url, FEEDBACK, {"id": id, "label": label}, headers)


def take_back_label(url: str, id: str, label: str, headers: Mapping[str, str]) -> Reply:
    """Take back a label that this person has given."""
    return http_sender(url, headers)("DELETE", f"{FEEDBACK}/{quote(id, safe='')}?{urlencode({'label': label})}", None)


def explain(reply: Reply, url: str) -> ExplainedRefusal:
    """Return what a person reads in place of an answer."""
    again = f"Wait {reply.retry_after_s:.0f} s and send it again." if reply.retry_after_s else "Send it again in a moment."
    if reply.status == 0:
        return ExplainedRefusal(f"The gateway does not answer at {url}.", "Start it in another terminal:", START)
    what = f"The gateway refuses this: {reply.message}."
    if reply.status == 401:
        return ExplainedRefusal(what, "Paste a token under “Token”. An administrator makes one:", HOW_TO_ADD, needs_token=True)
    if reply.status == 403:
        do = "Paste a token that may do this under “Token”: `predict` to ask, `label` to correct an answer."
        return ExplainedRefusal(what, do, HOW_TO_ADD, needs_token=True)
    if reply.code == "nothing_served":
        return ExplainedRefusal(what, "Make a model and publish it:", "make repro")
    if reply.code == "triton_unavailable":
        return ExplainedRefusal(what, f"{again} If it stays, look at Triton:", ".venv/bin/evergreen status")
    if reply.status in (429, 503):
        return ExplainedRefusal(what, again)
    if reply.status in (400, 410, 413, 422):
        return ExplainedRefusal(what, "Change the text and send it again.")
    if reply.code == "no_such_prediction":
        return ExplainedRefusal(what, "Ask again, and correct the new answer.")
    return ExplainedRefusal(what, "Its log says more:", ".venv/bin/evergreen status")
