"""The role that collects votes and settles certificates on the chain."""
