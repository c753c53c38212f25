"""What lies on disk: files that are there whole or not at all, held, sealed and packed."""
