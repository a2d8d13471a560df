"""Start, supervise and end child processes. Knows none of the programs that it runs."""

from collections.abc import Callable

Announce = Callable[[str], None]  # prints one line of progress
