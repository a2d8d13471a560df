"""The page Disputes: labels that contradict rows that measure a model, and who settles them. Knows no queue."""
