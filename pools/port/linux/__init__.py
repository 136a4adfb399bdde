"""Port ``linux``: everything that Linux has."""
