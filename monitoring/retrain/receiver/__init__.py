"""The receiver of Alertmanager's webhooks: parses alerts, commits each once, then acknowledges. Decides nothing."""
