"""Simulated devices on real ptys and sockets, written from the protocol sheets alone."""
