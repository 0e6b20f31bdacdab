"""Commands and configuration from afar."""
