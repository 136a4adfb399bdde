"""Layouts of the messages, one module per command. Names and order of fields are those of [MS-SMB2] 2.2.

A layout covers the fixed part; ``*_STRUCTURE_SIZE`` is what StructureSize says, one more where a variable part follows.
"""
