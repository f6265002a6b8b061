"""What the surgeon sees: the scene, the overlay, the waveforms, AR export."""
