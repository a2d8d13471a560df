"""Finds the texts of the prediction log that deserve a label. Knows no cluster and no order."""
