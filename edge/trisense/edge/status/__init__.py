"""What a box tells on its own machine: a picture of itself, its samples as they come, and metrics."""
