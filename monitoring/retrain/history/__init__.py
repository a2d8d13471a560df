"""Reading what happened: lineage of an alert, version or request, and replay under other thresholds. Changes nothing."""
