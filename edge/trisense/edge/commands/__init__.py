"""The commands of a box: each reads its arguments, asks, and shows."""
