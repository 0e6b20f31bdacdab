"""The runtime of a field box: supervise devices, judge quality, cut batches, spool, send."""
