"""The research log: pages that the machine writes, and a hand writes on."""
