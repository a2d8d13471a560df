"""The local inbox: takes alerts from Alertmanager and shows them to people. Starts no retrain."""
