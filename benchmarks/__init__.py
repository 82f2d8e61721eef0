"""Scripts that print the figures this project states, and keep them in `results/` with hardware, command and commit."""
