"""Heads of fine-tuned models: pooling, token matching, labels and prompts, shared by several tasks."""
