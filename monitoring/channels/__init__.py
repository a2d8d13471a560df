"""Channels by which people get alerts: settings and secrets in the home of state. Knows neither Alertmanager nor an alert."""
