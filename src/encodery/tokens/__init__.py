"""Documents to ids to batches: train and measure tokenizers, pack a corpus, feed packed batches."""
