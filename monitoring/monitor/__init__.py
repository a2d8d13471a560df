"""The monitor process: reads the prediction log, keeps and exports what it finds. The statistics are in `monitoring.drift`."""
