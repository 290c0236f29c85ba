"""What can be watched of a running engine: health, metrics, traces."""
