"""Keys and signatures: one curve a file."""
