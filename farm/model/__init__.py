"""What is asked of a farm and what becomes of it: requests, plans and jobs. Pure."""
