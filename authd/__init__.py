"""The authenticator: the only process that sees passwords, hashes and keytabs. See README.md."""
