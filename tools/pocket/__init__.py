"""Builds the pocket model that errata ships, and measures what it knows."""
