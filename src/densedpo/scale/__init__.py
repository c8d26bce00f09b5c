"""Work spread over many GPUs or machines by Ray, where it is installed."""
