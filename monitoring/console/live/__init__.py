"""The page Live: traffic, drift, accuracy, alerts and decisions over time, from Prometheus or from what is stored."""
