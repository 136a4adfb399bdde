"""A share's file system: see README.md."""
