"""Says how a new version can be tried on this machine, which may have room for one model only. Measures, and changes nothing."""
