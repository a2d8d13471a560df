"""What a version carries beside its model: card, training texts, the frozen control. Knows no MLflow, no stage and no page."""
