"""The page Live: traffic, evidence and events over time, from Prometheus or the stores. Knows no other page."""
