"""What became of a message that Alertmanager sent, read from its counts and its log. Pure, except for reading the log."""

import json
import re
from pathlib import Path
from typing import Literal, NamedTuple

State = Literal["delivered", "refused", "unreached", "unknown"]
MAX_LOG_BYTES = 2**20
QUOTED = re.compile(r' err=("(?:[^"\\]|\\.)*"|\S+)')
ATTEMPTS = re.compile(r"^.*?after \d+ attempts?: (?:context \w+ \w+: )?")
HTTP = re.compile(r"status code (\d{3})(?::\s*(?:https?://\S*: )?(.*))?", re.S)
SMTP = re.compile(r"\b([45]\d\d)[ -](.+)", re.S)
NO_STARTTLS = "does not advertise the STARTTLS"
ADVICE = (
    (r"x509|certificate|tls:", "the server's certificate is not trusted; for a company's: SSL_CERT_FILE=… make watch"),
    (r"first record does not look like a TLS", "the server speaks no TLS at this port; check the port"),
    (r"connection refused", "nothing listens there; check host and port"),
    (r"no such host|Name or service not known|lookup", "there is no such host; check the name, or the proxy of this machine"),
    (r"timeout|timed out|deadline", "no answer in time; check host, port, firewall and proxy"),
    (
        r"HTTP (401|403|404|410)|no_service|invalid_token",
        "the webhook is gone, or its URL is not whole: set it again",
    ),
    (r"HTTP (400|421|422)", "this is another kind of webhook; see evergreen alerts --help for the kinds"),
    (r"HTTP 429", "too many messages; wait, then test again"),
    (r"HTTP 5\d\d", "the service fails; test again later"),
    (r"^53[0-9]|auth", "the mail server refuses the account: check --user and --password-file"),
    (r"STARTTLS", "the mail server offers no TLS: another port (587, 465), or --no-tls, which sends in the clear"),
    (r"^5[0-9][0-9]", "the mail server refuses sender or receiver: check --from and --to"),
)


class DeliveryResult(NamedTuple):
    """The end of a test message, and the reason where it was not delivered."""

    state: State
    reason: str = ""

    @property
    def advice(self) -> str:
        """Return what to do about it."""
        known = (text for pattern, text in ADVICE if re.search(pattern, self.reason, re.IGNORECASE))
        return next(known, "see live/alerts/alertmanager.log")


def failure(reason: str) -> DeliveryResult:
    """Tell a refusal, which has a status, from a message that reached nobody.

    >>> failure("notify retry canceled due to unrecoverable error after 1 attempts: unexpected status code 404: no_team")
    DeliveryResult(state='refused', reason='HTTP 404: no_team')
    >>> failure('Post "<redacted>": dial tcp 127.0.0.1:9: connect: connection refused')
    DeliveryResult(state='unreached', reason='dial tcp 127.0.0.1:9: connect: connection refused')
    """
    cause = ATTEMPTS.sub("", reason).strip()
    if status := HTTP.search(cause):
        return _of_status(int(status[1]), (status[2] or "").strip())
    cause = re.sub(r'^Post "[^"]*": ', "", cause)
    if NO_STARTTLS in cause:
        return DeliveryResult("refused", cause)
    if answer := SMTP.search(cause):
        return DeliveryResult("refused", f"{answer[1]} {answer[2].strip()}")
    return DeliveryResult("unreached", cause)


def _of_status(status: int, said: str) -> DeliveryResult:
    """Return what an HTTP status of the channel, or of the inbox that sent it on, means."""
    if "was not reached: " in said:
        return DeliveryResult("unreached", re.sub(r"\[Errno -?\d+\] ", "", said.partition("was not reached: ")[2]))
    if "answered HTTP " in said:
        return DeliveryResult("refused", f"HTTP {said.partition('answered HTTP ')[2]}")
    return DeliveryResult("refused", f"HTTP {status}{f': {said}' if said else ''}")


def logged_failure(log: Path, start: int, receiver: str) -> DeliveryResult | None:
    """Return why a receiver's last message failed, from what was logged since the byte `start`; None without such a line."""
    if not log.is_file():
        return None
    with log.open("rb") as file:
        file.seek(start)
        lines = file.read(MAX_LOG_BYTES).decode("utf-8", "replace").splitlines()
    named = (f"receiver={receiver} ", f"{receiver}/")
    failures = [match[1] for line in lines if any(name in line for name in named) and (match := QUOTED.search(line))]
    return failure(_unquoted(failures[-1])) if failures else None


def _unquoted(text: str) -> str:
    """Return a quoted value of logfmt."""
    try:
        return str(json.loads(text)) if text.startswith('"') else text
    except ValueError:  # an escape of Go that JSON lacks
        return text.strip('"')
