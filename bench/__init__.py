"""Measurements, one command each: `python3 dev.py bench NAME [--json FILE]`. Never tests: a slow machine fails nothing."""
