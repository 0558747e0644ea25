"""What runs in the sandbox, beside the program that is scored: the standard library only, and no expected value."""
