"""Reading, identifying, splitting and corrupting rows. Knows no model."""
