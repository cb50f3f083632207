"""Guided fuzzing: inputs that grow by the branches that they reach."""
