"""A load generator for SMB 2/3 servers with little overhead of its own: ``python -m bench.load``."""
