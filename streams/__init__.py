"""What passes between devices, twin and viewer, and how it is recorded."""
