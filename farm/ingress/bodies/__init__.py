"""How a request's body becomes its fields and its picture."""
