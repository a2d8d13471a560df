"""One file for each revision of the schema. A released revision never changes, and imports nothing of the project."""
