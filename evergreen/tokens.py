"""The commands `evergreen token`: add, list and revoke the tokens of callers."""

from typing import Annotated

import typer
from rich.table import Table

from evergreen.inspection import out
from pipeline.output.plain_text import print_line
from pipeline.output.terminal import Terminal

app = typer.Typer(no_args_is_help=True, help="Tokens of the callers of the gateway; a running gateway follows within a second.")
err = Terminal(stderr=True)
Name = Annotated[str, typer.Argument(help="person or system that calls")]


@app.command()
def add(
    name: Name,
    scope: Annotated[list[str], typer.Option(help="predict, label (give feedback) or admin (everything); may be repeated")],
) -> None:
    """Make a token and print it, once: only its hash is stored. A second token of a name works beside the first."""
    from datetime import UTC, datetime

    from pipeline.home import find_home
    from serving.access.tokens import add_token, read_tokens, tokens_path

    path = tokens_path(find_home())
    is_first = read_tokens(path) is None
    token = add_token(path, name, scope, datetime.now(UTC))
    err.print(f"the token of {name} ({', '.join(scope)}), shown only now; callers send it as Authorization: Bearer …")
    if is_first:
        err.print("it is the first one: from now on every call to the gateway needs a token")
    print_line(token)


@app.command("list")
def list_tokens() -> None:
    """List names, ids, scopes and dates. Tokens themselves are not stored."""
    from pipeline.home import find_home
    from serving.access.tokens import read_tokens, tokens_path

    path = tokens_path(find_home())
    tokens = read_tokens(path)
    if not tokens:
        state = "there are no tokens yet" if tokens is None else "every token is revoked, so nobody may call"
        out.print(f"{state}; to make one: .venv/bin/evergreen token add NAME --scope predict")
        return
    table = Table("name", "id", "scopes", "made at", box=None, padding=(0, 2, 0, 0))
    for token in sorted(tokens, key=lambda token: (token.name, token.created_at)):
        table.add_row(token.name, token.id, ", ".join(token.scopes), f"{token.created_at:%Y-%m-%d %H:%M} UTC")
    out.print(table)


@app.command()
def revoke(
    name: Name, id: Annotated[str | None, typer.Option(help="only the token with this id, where the name has several")] = None
) -> None:
    """Revoke the tokens of a name."""
    from pipeline.home import find_home
    from serving.access.tokens import revoke_tokens, tokens_path

    path = tokens_path(find_home())
    count = revoke_tokens(path, name, id)
    out.print(f"revoked {count} token{'s' if count > 1 else ''} of {name}; a running gateway refuses within a second")
