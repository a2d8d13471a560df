"""Measure goals side by side with their controls: `make bench-<name>`. pytest runs no bench."""
