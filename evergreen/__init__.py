"""The console script, `make repro` and `make loop`: they call the packages below. No other package imports this one."""
