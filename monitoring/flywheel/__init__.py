"""From disagreement to labels: which texts people should label, and whether it paid. Starts no retrain."""
