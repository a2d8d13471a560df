"""The local inbox: takes alerts from Alertmanager and shows them to people. Knows no retraining."""
