"""A whole network on this machine: a chain, every role in its own process, honest tasks, and lies that are caught."""
