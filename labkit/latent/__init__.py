"""The study behind notebook 02: what can be read off a latent space, and what only seems so.

`plan` says what is trained (notebook 01's model, and one with two latents), `space` is geometry,
`measure` asks the trained models one question a function, `reading` turns the answers into tables and
into what figures are drawn from, `claims` puts the poster's Figure 3 to the test.
"""
