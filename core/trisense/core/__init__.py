"""What every part of trisense shares: words, wire format, topics, limits, errors, the CLI's frame."""
