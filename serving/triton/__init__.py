"""Triton: its local server process and the one client that speaks to any server. Knows no gateway."""
