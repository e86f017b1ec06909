"""Training of the micro family: one module a model, each with `train(config: MicroTrainingConfig) -> None`."""
