"""What is computed next: who is admitted, read, decoded and set aside."""
