"""`watch`: a run while it trains, from its files alone; also one that trains on another machine of a shared disk."""
