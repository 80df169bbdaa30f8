"""A router as a service."""
