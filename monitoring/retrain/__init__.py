"""From an alert to a new champion: decide, journal, controller and the steps of a retrain. Knows no statistics of drift."""
