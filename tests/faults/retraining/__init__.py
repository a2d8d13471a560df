"""The drill of retraining: the controller is killed at each point at which it writes."""
