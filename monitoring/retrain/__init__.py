"""From an alert to a new champion: who hears alerts, who decides, who does it, and what is written down on the way."""
