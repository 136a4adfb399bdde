"""Port ``posix``: portable calls of the standard library and nothing else. Where a port to another system begins."""
