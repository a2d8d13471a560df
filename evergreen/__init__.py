"""The console script and `make loop`. Everything it does is done by the packages below."""
