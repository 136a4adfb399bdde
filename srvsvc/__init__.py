"""The DCE/RPC server behind the named pipes of IPC$. See README.md."""
