"""Operations with several implementations; `naive` is the reference, and the others must agree with it."""
