"""Ownership of a store: a lease makes sure that at most one coordinator writes to it."""
