"""Gradual releases: what a new version shows on live traffic, and the moves that follow. Only a retrain's last steps run them."""
