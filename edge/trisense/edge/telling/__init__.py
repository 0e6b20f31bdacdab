"""What a box tells of itself: alarms by its rules, previews of an outage, its health."""
