"""What is trained before a run, as functions: teachers, experts, generators."""
