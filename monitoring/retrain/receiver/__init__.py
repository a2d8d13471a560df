"""The receiver of Alertmanager's webhooks: parsed, entered in the journal once each, then acknowledged. Decides nothing."""
