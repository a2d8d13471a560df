"""Benches: `make bench-<name>` measures rows of the goals side by side with their controls. pytest runs none of them."""
