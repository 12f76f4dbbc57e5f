"""The methods: one file each, to be read next to its paper; none imports another."""
