"""Measurements: what the README claims about speed and memory is made here."""
