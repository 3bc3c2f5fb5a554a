"""Which process owns a store: at most one coordinator writes it."""
