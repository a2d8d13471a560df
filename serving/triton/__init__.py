"""Triton: the local server process, and the one client for any server. Knows no gateway."""
