"""Registration of images to images: rigid, affine and deformable, and how to check it."""
