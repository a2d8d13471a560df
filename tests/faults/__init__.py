"""Inject faults into real processes: `make drill`. The parts that every drill shares, and their programs, are here."""
