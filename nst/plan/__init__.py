"""What a run will need, counted before it: parameters, work, memory, traffic, storage and hours."""
