"""Rules, Alertmanager, dashboards: rendered from params.yaml, checked by the programs themselves."""
