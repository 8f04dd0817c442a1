"""The sample broker: dataset cursor, leases, staleness bounds, membership. Never imports torch."""
