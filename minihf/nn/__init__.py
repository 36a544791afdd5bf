"""The mathematics that every architecture shares: one idea a file, a page or two each."""
