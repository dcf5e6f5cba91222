"""Radiographs as pictures: reading them, the boxes on them, and images of other patients."""
