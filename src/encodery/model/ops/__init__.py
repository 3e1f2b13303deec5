"""Operations with more than one implementation: `naive` is the truth, the others must agree with it."""
