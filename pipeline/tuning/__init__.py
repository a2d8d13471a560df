"""What matters before a training is paid for."""
