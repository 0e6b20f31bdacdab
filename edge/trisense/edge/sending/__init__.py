"""From the spool to the gateway: what goes next, on which lane, at what cost, and what comes back."""
