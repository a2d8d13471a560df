"""The page Model: a version's card, its lineage, and two versions side by side, from published folders and state alone."""
