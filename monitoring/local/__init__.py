"""`make watch`: brings Prometheus and Alertmanager and runs the watching on one machine. Knows nothing that a cluster needs."""
