"""Prometheus rules, Alertmanager configuration, dashboard and manifests, rendered from params.yaml. Knows no process."""
