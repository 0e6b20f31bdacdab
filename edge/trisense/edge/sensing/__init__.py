"""From a device to the batch: supervision, stamps, tests of quality, calibration, cuts."""
