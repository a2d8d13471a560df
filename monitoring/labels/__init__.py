"""Labels from people: whose they are, which of them count, and the rows that they make. Knows no alert and no retrain."""
