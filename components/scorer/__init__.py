"""What the steps share: settings, photos, the model, its losses and metrics, the bundle, storage."""
