"""What is checked of a model before anything is created."""
