"""What is no argument is refused by name, whenever it is given."""
