"""The server: listeners, upgrades, limits, health, metrics, publishing, and how it ends."""
