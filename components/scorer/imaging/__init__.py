"""Images: file bytes to upright sRGB pixels within bounds of memory, sizes, statistics, hashes, augmentation."""
