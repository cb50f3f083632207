"""The programs that make load, and the limit: small C programs, compiled when they are needed."""
