"""Parts that every process shares: child processes, ports, HTTP service, log format. Knows none of the programs it runs."""

from collections.abc import Callable

Announce = Callable[[str], None]  # prints one line of progress
