"""The vocabulary: quantities and units, places and devices, readings, the city file, the clock."""
