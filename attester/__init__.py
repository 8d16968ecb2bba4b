"""The role that recomputes a task and votes on it."""
