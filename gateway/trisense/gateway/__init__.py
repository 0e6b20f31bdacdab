"""The gateway: ingest, stores, ledger, quarantine, API and the operators' page."""
