"""The commands `evergreen alerts`: who gets alerts, and one test message to each. No secret is an argument."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from evergreen.inspection import out
from pipeline.errors import InputError, ToolError
from pipeline.output.terminal import styled

if TYPE_CHECKING:
    from monitoring.channels.settings import Channel, Kind
    from monitoring.local.delivery import DeliveryResult

app = typer.Typer(
    no_args_is_help=True,
    help="Who gets alerts besides the inbox. Settings and secrets are kept in the home of state, for this user alone.",
)
MARKS = {"delivered": ("✓", "green"), "refused": ("✗", "red"), "unreached": ("✗", "red"), "unknown": ("?", "yellow")}
STATES = {"unreached": "not reached", "unknown": "no result"}
UrlFile = Annotated[str, typer.Option(help="file with the URL of the webhook, chmod 600; - reads the standard input")]


@app.command()
def slack(
    url_file: UrlFile,
    name: Annotated[str, typer.Option(help="name of the channel; a second one needs another")] = "slack",
    room: Annotated[str, typer.Option(help="#channel to post to, where the webhook allows it")] = "",
) -> None:
    """Send alerts to an incoming webhook of Slack, or of Mattermost and others that speak its format."""
    _add_webhook("slack", name, url_file, room)


@app.command()
def teams(
    url_file: UrlFile, name: Annotated[str, typer.Option(help="name of the channel; a second one needs another")] = "teams"
) -> None:
    """Send alerts to Microsoft Teams: a workflow "When a Teams webhook request is received" that posts a card."""
    _add_webhook("teams", name, url_file)


@app.command()
def webhook(
    url_file: UrlFile, name: Annotated[str, typer.Option(help="name of the channel; a second one needs another")] = "webhook"
) -> None:
    """Send alerts as JSON of Alertmanager (version 4) to any service that takes it."""
    _add_webhook("webhook", name, url_file)


@app.command()
def email(
    to: Annotated[str, typer.Option(help="address of the receiver; several with commas")],
    server: Annotated[str, typer.Option(help="mail server and port, for example smtp.example.org:587")],
    sender: Annotated[str, typer.Option("--from", help="address of the sender")],
    user: Annotated[str, typer.Option(help="account at the mail server; needs --password-file")] = "",
    password_file: Annotated[
        str, typer.Option(help="file with the account's password, chmod 600; - reads the standard input")
    ] = "",
    tls: Annotated[bool, typer.Option(help="refuse a mail server without TLS; a password is never sent without it")] = True,
    name: Annotated[str, typer.Option(help="name of the channel; a second one needs another")] = "email",
) -> None:
    """Send alerts by mail."""
    from monitoring.channels.given_secrets import read_secret
    from monitoring.channels.mail import checked_addresses, checked_server
    from monitoring.channels.settings import Channel

    if bool(user) != bool(password_file):
        raise InputError(
            "--user, --password-file", "an account needs both", "give both, or neither where the server asks for none"
        )
    if user and not tls:
        raise InputError("--no-tls", "the password would be sent in the clear", "leave --no-tls out")
    settings = Channel(
        name=name,
        kind="email",
        shown=checked_addresses("--to", to),
        sender=checked_addresses("--from", sender),
        server=checked_server("--server", server),
        user=user,
        tls=tls,
    )
    _put(settings, read_secret("--password-file", password_file, "the password") if password_file else "")


@app.command("list")
def list_channels() -> None:
    """List the channels. Secrets are never shown."""
    from monitoring.alert_rules.alertmanager import inbox_page
    from monitoring.channels.settings import read_channels
    from pipeline.home import find_home
    from pipeline.params import load_params

    table = Table("name", "kind", "to", "by", box=None, padding=(0, 2, 0, 0))
    alerts = load_params().alerts
    if alerts.inbox == "here":
        table.add_row("inbox", "page", inbox_page(alerts), "make watch")
    channels = read_channels(find_home() / "alerts")
    for channel in channels:
        table.add_row(channel.name, channel.kind, f"{channel.shown} {channel.room}".strip(), channel.server)
    out.print(table)
    if not channels:
        out.print("nobody is notified besides; to add Slack, Teams, a webhook or mail: .venv/bin/evergreen alerts --help")


@app.command()
def remove(name: Annotated[str, typer.Argument(help="name of the channel")]) -> None:
    """Remove a channel and its secret."""
    from monitoring.channels.settings import remove_channel
    from pipeline.home import find_home

    removed = remove_channel(find_home() / "alerts", name)
    out.print(f"{removed.name} is removed, and its secret is deleted")
    _apply()


@app.command()
def test(names: Annotated[list[str] | None, typer.Argument(help="channels; all of them without a name")] = None) -> None:
    """Send a test message to each channel through Alertmanager, and tell what became of it. It starts no retrain."""
    from monitoring.channels.settings import find_channel, read_channels
    from monitoring.local.alert_test import try_channels
    from pipeline.home import find_home
    from pipeline.params import load_params

    home = find_home()
    folder = home / "alerts"
    channels = [find_channel(folder, name) for name in names] if names else list(read_channels(folder))
    if not channels:
        raise InputError("evergreen alerts test", "no channel is set up", "add one: .venv/bin/evergreen alerts --help")
    failed = try_channels(load_params(), home, channels, lambda text: out.print(styled("·", "green"), text), _report)
    if failed:
        what = f"{len(failed)} of {len(channels)} test messages were not delivered: {', '.join(failed)}"
        raise ToolError("evergreen alerts test", what, "the lines above say why; then test again")


def _report(channel: "Channel", delivery: "DeliveryResult") -> None:
    """Print the end of a test message."""
    state = STATES.get(delivery.state, delivery.state)
    out.print(styled(*MARKS[delivery.state]), f"{channel.name}: {state}, {channel.shown}")
    if delivery.state != "delivered":
        out.print(f"  {delivery.reason}")
        out.print(f"  what to do: {delivery.advice}")


def _add_webhook(kind: "Kind", name: str, url_file: str, room: str = "") -> None:
    from monitoring.channels.given_secrets import read_url
    from monitoring.channels.settings import Channel

    url, host = read_url("--url-file", url_file)
    _put(Channel(name=name, kind=kind, shown=host, room=room), url)


def _put(channel: "Channel", secret: str) -> None:
    from monitoring.channels.settings import put_channel
    from pipeline.home import find_home

    put_channel(find_home() / "alerts", channel, secret)
    out.print(styled("✓", "green"), f"{channel.name}: alerts go to {channel.shown}; the settings are in the home of state")
    if secret:
        out.print("  the secret is copied there; the file that you gave is not needed any more")
    _apply()
    out.print(f"next: .venv/bin/evergreen alerts test {channel.name}")


def _apply() -> None:
    """Let a running Alertmanager follow, and say whether there is one."""
    from monitoring.channels.settings import read_channels
    from monitoring.local.alert_test import apply
    from pipeline.home import find_home
    from pipeline.params import load_params

    home = find_home()
    is_running = apply(load_params(), home, read_channels(home / "alerts"))
    out.print("  Alertmanager uses it from now on" if is_running else "  make watch does not run; it uses it when it starts")
