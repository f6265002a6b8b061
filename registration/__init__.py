"""Where things are: transforms, frames, registration, each with its error."""
