"""What the tables say: leaderboards and fronts. Reads results, never writes them."""
