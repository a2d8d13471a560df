"""Asynchronous jobs: the durable queue, its workers, signed callbacks and the addresses they may reach. Knows no Triton."""
