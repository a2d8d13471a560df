"""Asynchronous jobs: the durable queue, its workers, signed callbacks and the addresses that they may reach. Knows no Triton."""
