"""A page to look inside a model: `edit_view` and `limits` compute, `pictures` draws, `app` is the page itself."""
