"""What an archive will cost, before it is built."""
