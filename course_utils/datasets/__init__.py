"""What networks learn from: pictures composed on the fly, a car to teach, photos of one's own, latents made once.

data ──► compose ──► picture + true caption ──► (latent_cache) ──► a batch
xp7, photos ──► a handful of pictures of one subject
"""
