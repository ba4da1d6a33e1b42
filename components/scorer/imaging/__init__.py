"""Images: decoding to upright sRGB within memory bounds, resizing, image statistics, hashes, augmentation."""
