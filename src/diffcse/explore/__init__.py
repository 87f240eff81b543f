"""A page to look inside a model: `sees` and `limits` compute, `pictures` draws, `app` is the page itself."""
