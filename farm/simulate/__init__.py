"""`python -m farm.simulate`: run the farm's scheduler on a simulated clock and simulated GPUs."""
