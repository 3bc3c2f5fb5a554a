"""Measures the engine's speed and compares it with diffusers': `python -m svd_engine bench`."""
