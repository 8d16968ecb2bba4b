"""Measurements, a command each: `python3 dev.py bench NAME [--json FILE]`. No tests: a slow machine fails nothing."""
