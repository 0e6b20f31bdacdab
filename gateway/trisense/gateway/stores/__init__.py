"""Where samples end: one module per kind of store, all behind ``base``."""
