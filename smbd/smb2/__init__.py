"""SMB 2 and 3 as bytes in, requests and bytes out. See README.md."""
