"""The monitor process: reads the prediction log, stores and exports the results. The statistics are in `monitoring.drift`."""
