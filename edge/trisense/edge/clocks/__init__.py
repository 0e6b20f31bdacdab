"""The line of time that samples are stamped with, and who says what time it is."""
