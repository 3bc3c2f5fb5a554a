"""Which task goes to which worker, and which workers a cluster should have. Pure."""
