"""Tests that hold the pages and the project together."""
