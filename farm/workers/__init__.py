"""Workers that run tasks with the engine, and the Ray cluster that hosts them."""
