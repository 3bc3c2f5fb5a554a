"""Python clients of a farm: over Ray, over HTTP, or with a farm started in this process."""
