"""A page to look inside a model.

corpus: what is searched. edit_view: what the discriminator sees. limits: what may be typed. pictures: the markup.
answers: what each button does. app: the page itself and its server.
"""
