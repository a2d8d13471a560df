"""Takes data sets from the hub, and gives a model to others: its card, and a folder as the hub knows it. No stage imports it."""
