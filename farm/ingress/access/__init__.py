"""Who may use the farm over HTTP, and how often."""
