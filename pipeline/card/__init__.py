"""What a version carries for people: the facts of its card, and its training texts. Knows no MLflow, no stage and no page."""
