"""The three modules put together: only here do text encoder, generator and decoder meet.

prompt ──► text_encoder ──► context ──► generator ──► picture or latent ──► decoder ──► picture
"""
