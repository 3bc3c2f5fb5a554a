"""What the farm measures of itself, and how the numbers reach Prometheus."""
