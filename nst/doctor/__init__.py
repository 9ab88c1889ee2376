"""What is wrong or unwise in a configuration, before hours are spent: facts, and rules over them."""
