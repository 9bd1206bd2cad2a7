"""The `cityeye` command: wires the parts together, nothing else."""
