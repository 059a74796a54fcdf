"""What the hub tells about a model before anything is created."""
