"""Running a model without training it: engines that map packed batches to hidden states, and what they are made of."""
