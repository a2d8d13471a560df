"""Drills of monitoring: floods of alerts, and processes that are paused or killed."""
