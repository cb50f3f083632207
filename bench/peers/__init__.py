"""What others would choose instead, each with the same work to do."""
