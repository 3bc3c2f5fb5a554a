"""`python -m farm.simulate`: the farm's scheduler on a simulated clock and simulated GPUs."""
