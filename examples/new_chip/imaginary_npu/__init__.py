"""A chip that does not exist, as a package of its own."""
