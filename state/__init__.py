"""The state database: its schema, its migrations and how it is opened. Knows no queries and none of their callers."""
