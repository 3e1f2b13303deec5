"""Serving: trained artifacts behind HTTP, in three stages (tokenise, run, finish) over one fair queue of tokens."""
