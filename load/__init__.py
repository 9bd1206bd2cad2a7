"""Load tests: many devices against somebody's broker, honest figures, one report."""
