"""The integrator's kit: start a driver, test it against the conformance matrix, record a line."""
