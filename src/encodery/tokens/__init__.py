"""Documents to ids to batches: trains and measures tokenizers, encodes a corpus, loads packed batches."""
