"""How a model is watched: traffic against its reference, alerts, retraining. Nothing of `serving` may import it."""
