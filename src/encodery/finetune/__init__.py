"""An encoder and labelled rows to a model of one task: what to predict, how it learns, what it predicts, how well."""
