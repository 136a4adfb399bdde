"""Memory and the machine below: buffer pools, counters, the message queue and the port. Knows nothing of SMB."""
