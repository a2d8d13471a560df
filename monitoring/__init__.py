"""Monitoring: traffic against its reference, alerts, retraining. No module of `serving` may import it."""
