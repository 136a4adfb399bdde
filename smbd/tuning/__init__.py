"""Measuring on the appliance itself what the configuration should say, and writing it there.

Owns: ``datapath`` (what each format of the data path costs) and ``rewrite`` (parameters into a configuration file).
"""
