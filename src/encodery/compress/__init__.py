"""Compression: training a smaller or cheaper model, whatever the job: a teacher, pruned weights, 8-bit arithmetic."""
