"""The small computations around the network, per device: `cpu` is the reference that every other device must match."""
