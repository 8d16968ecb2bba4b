"""In-memory implementations of `shared.interfaces`, held to the same conformance suites as the real ones."""
