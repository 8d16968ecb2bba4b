"""What people run and import: the command line, the client and the local testnet."""
