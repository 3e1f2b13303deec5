"""encodery: from a folder of text to a served transformer encoder."""
