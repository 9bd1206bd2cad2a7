"""Messages to validated readings to spool to store, and the ledger that counts every fate."""
