"""Gradual releases: what a new version shows on live traffic, and the moves that follow. A retrain's last steps run them."""
