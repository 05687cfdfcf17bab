"""The parts of `xtorch.data.loader.ExtendedDataLoader`."""
