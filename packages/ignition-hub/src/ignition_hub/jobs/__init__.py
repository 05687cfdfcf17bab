"""Units of work for agents: leases, logs, events, outputs."""
