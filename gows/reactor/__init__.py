"""The event loop under gows. It knows descriptors, deadlines and threads; it carries any byte protocol."""
