"""What a port of SVD computed, stage by stage: recorded, compared, and its mistakes named."""
