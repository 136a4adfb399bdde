"""Measurements of single rooms of the house, in memory."""
