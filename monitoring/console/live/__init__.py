"""The page Live: what served and what happened over time, from Prometheus or from what is stored. Knows no other page."""
