"""What the repository needs and the package does not: building the pocket model."""
