"""Picture files of any kind to bytes of one kind."""
