"""The commands, one module a group; ``surgical_twin.cli`` mounts them."""
