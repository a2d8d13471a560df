"""Rows: how they are read, identified, split and corrupted. Knows no model."""
