"""The box as a service of the system: readiness, watchdog, an orderly stop."""
