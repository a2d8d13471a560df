"""The receiver of Alertmanager's webhooks: parses alerts, commits each once to the journal, then acknowledges."""
