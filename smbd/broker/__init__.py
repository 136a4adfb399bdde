"""The broker: janitor of dead processes' records, watcher of changes made outside the server. ``service.main`` is its program."""
