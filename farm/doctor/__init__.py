"""`python -m farm doctor`: checks what a farm needs on this machine, with or without a farm."""
