"""Heads of fine-tuned models: pooling, token matching, labels, prompts; shared by several tasks."""
