"""Groups candidates, names the groups, ranks them, and keeps their ids over rounds. Knows no log and no database."""
