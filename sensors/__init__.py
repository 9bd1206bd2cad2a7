"""The simulated city: fields, instruments, devices, the fleet."""
