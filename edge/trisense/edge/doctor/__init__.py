"""``trisense edge doctor``: measures what the promises of a box rest on, and says what to do."""
