"""HTTP requests from the farm to the web: only to public addresses, checked for each request."""
