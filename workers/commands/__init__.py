"""The commands, a module each; ``workers.rows`` is their table."""
