"""Arms set beside their base: consistent, accurate, and still looking at the image?"""
