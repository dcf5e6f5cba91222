"""Radiographs: finding and decoding image files, boxes on them, and images of other patients."""
